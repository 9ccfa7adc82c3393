//! `headrace send`: signs bodies as GitHub does and posts them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::secret::redact_url;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use super::http;
use crate::cli::ask::Send;
use crate::cli::output;
use crate::installation::locate::{Named, NamedBy, Purpose, Request, locate};
use crate::installation::running;
use crate::installation::surroundings::{Surroundings, Unclear};

/// A body to send.
struct Delivery {
    event: String,
    guid: String,
    body: Vec<u8>,
}

/// An entry of the examples' `index.json`.
#[derive(Deserialize)]
struct Kind {
    name: String,
    examples: Vec<Box<RawValue>>,
}

/// The name space for the GUIDs of examples. Any fixed UUID would do.
const EXAMPLES: Uuid = Uuid::from_u128(0x6a1f_5a0e_51b8_4d5e_9d3c_4865_6164_7261);

pub(crate) async fn send(arguments: Send) -> anyhow::Result<()> {
    let (url, secret) = destination(&arguments)?;
    let deliveries = deliveries(&arguments)?;
    let address = Url::parse(&url).ok().context("expected a URL of the gateway, found something else")?;
    let client = http::client(&address, |client| client.timeout(Duration::from_secs(30)))?;
    let (mut stored, mut duplicate, mut refused) = (0_u32, 0_u32, 0_u32);
    let single = deliveries.len() == 1;
    for delivery in deliveries {
        let (status, answer) = post(&client, &url, &secret, &delivery).await?;
        let (outcome, count) = match status {
            StatusCode::ACCEPTED => ("stored", &mut stored),
            StatusCode::OK => ("known", &mut duplicate),
            _ => ("refused", &mut refused),
        };
        *count += 1;
        if !matches!(status, StatusCode::ACCEPTED | StatusCode::OK) {
            let Delivery { event, guid, .. } = &delivery;
            output::note(format_args!("{event} {guid} was refused: {status} {}", answer.trim()));
        }
        if arguments.json {
            output::line(told(&delivery, outcome, status, &answer))?;
        } else if single && status.is_success() {
            output::line(format_args!("{status}: {}", answer.trim()))?;
        }
    }
    if !single && !arguments.json {
        let to = redact_url(&url);
        output::line(format_args!("{stored} stored, {duplicate} known already, {refused} refused by {to}"))?;
    }
    anyhow::ensure!(refused == 0, "{refused} deliveries were refused");
    Ok(())
}

/// The outcome of a delivery, for programs.
fn told(delivery: &Delivery, outcome: &str, status: StatusCode, answer: &str) -> Value {
    // A proxy between us and the gateway may answer with anything.
    let answer = serde_json::from_str(answer).unwrap_or_else(|_| Value::from(answer.trim()));
    json!({
        "event": delivery.event,
        "delivery": delivery.guid,
        "outcome": outcome,
        "status": status.as_u16(),
        "answer": answer,
    })
}

fn destination(arguments: &Send) -> anyhow::Result<(String, SecretString)> {
    if let (Some(url), Some(secret)) = (&arguments.url, &arguments.secret) {
        return Ok((url.clone(), secret.clone()));
    }
    let request = Request {
        purpose: Purpose::Ask,
        config: None,
        data_dir: arguments.data_dir.as_deref(),
        context: arguments.context.as_deref(),
    };
    let located = locate(&request, &Surroundings::of_this_process())?;
    if let (Some(Named { by: NamedBy::Context(name), .. }), NamedBy::Default) = (&located.config, &located.data_dir.by)
    {
        // Without this check, the default directory would be used, which is another installation.
        let problem = format!(
            "expected the data directory of a running `headrace up`, found only a configuration in the context `{name}`; \
             name a --data-dir, or give --url and --secret"
        );
        return Err(Unclear(problem).into());
    }
    let ready = running::of(&located.data_dir).context(
        "expected a running `headrace up` to send to; start it, name its --data-dir, or give --url and --secret",
    )?;
    let gateway = ready.gateway.context("the running process has no gateway")?;
    let url = arguments.url.clone().unwrap_or_else(|| format!("{gateway}/webhooks/github"));
    let secret = arguments.secret.clone().or(ready.webhook_secret.map(SecretString::from));
    Ok((url, secret.context("expected a secret, found none; give --secret")?))
}

fn deliveries(arguments: &Send) -> anyhow::Result<Vec<Delivery>> {
    if let Some(examples) = &arguments.examples {
        let found = if examples.is_dir() { from_folder(examples)? } else { from_index(examples)? };
        anyhow::ensure!(!found.is_empty(), "{} holds no JSON bodies", examples.display());
        return Ok(found);
    }
    let file = arguments.file.as_ref().context("expected a FILE or --examples")?;
    let event = arguments.event.clone().context("expected --event with the event kind")?;
    let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // Version 1, like GitHub's own: its time tells the gateway whether the delivery may be a duplicate.
    let guid = arguments.delivery.clone().unwrap_or_else(|| Uuid::now_v1(&rand::random()).to_string());
    Ok(vec![Delivery { event, guid, body }])
}

fn from_index(path: &Path) -> anyhow::Result<Vec<Delivery>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let kinds: Vec<Kind> = serde_json::from_slice(&text).with_context(|| {
        format!("{} is not in the form of the index.json of @octokit/webhooks-examples", path.display())
    })?;
    let deliveries = kinds.into_iter().flat_map(|Kind { name, examples }| {
        let delivery = move |(index, body): (usize, Box<RawValue>)| {
            example(&name, &index.to_string(), body.get().as_bytes().to_vec())
        };
        examples.into_iter().enumerate().map(delivery)
    });
    Ok(deliveries.collect())
}

fn from_folder(folder: &Path) -> anyhow::Result<Vec<Delivery>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let event = name.split('.').next().unwrap_or_default().to_owned();
        let files = if path.is_dir() { entries(&path)? } else { vec![path] };
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
            let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            found.push(example(&event, &file.strip_prefix(folder).unwrap_or(file).to_string_lossy(), body));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read =
        || -> std::io::Result<Vec<PathBuf>> { std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = read().with_context(|| format!("cannot read the folder {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

fn example(event: &str, place: &str, body: Vec<u8>) -> Delivery {
    let mut name = format!("{event}\0{place}\0").into_bytes();
    name.extend_from_slice(&body);
    Delivery { event: event.to_owned(), guid: Uuid::new_v5(&EXAMPLES, &name).to_string(), body }
}

async fn post(
    client: &Client,
    url: &str,
    secret: &SecretString,
    delivery: &Delivery,
) -> anyhow::Result<(StatusCode, String)> {
    let key = secret.expose_secret().as_bytes();
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    let signature = mac.chain_update(&delivery.body).finalize().into_bytes();
    let response = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("User-Agent", concat!("headrace-send/", env!("CARGO_PKG_VERSION")))
        .header("X-GitHub-Event", &delivery.event)
        .header("X-GitHub-Delivery", &delivery.guid)
        .header("X-Hub-Signature-256", format!("sha256={}", hex::encode(signature)))
        .body(delivery.body.clone())
        .send()
        .await
        .map_err(reqwest::Error::without_url)
        .with_context(|| format!("cannot reach {}; is the gateway running there?", redact_url(url)))?;
    let status = response.status();
    let answer = response.text().await.map_err(reqwest::Error::without_url);
    Ok((status, answer.context("the gateway's answer broke off")?))
}
