//! The id of an installation. On a real broker.

use headrace_local::poll;
use headrace_runtime::state::{StateStore, installation};
use headrace_tests::conformance::Workers;
use headrace_tests::harness::{CEILING, Nats};

#[tokio::test]
async fn all_processes_have_the_id_that_the_first_made_and_put_it_back() {
    let nats = Nats::start().await;
    let (one, other) = (nats.broker().await, nats.broker().await);
    let (id, same) = tokio::try_join!(installation::id(&one), installation::id(&other)).unwrap();
    assert_eq!(id, same);
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let elsewhere = Nats::start().await;
    assert_ne!(installation::id(&elsewhere.broker().await).await.unwrap(), id);

    // Somebody deletes it under a process at work.
    let store = StateStore::open_asides(&one).await.unwrap();
    store.forget("installation").await.unwrap();
    let (broker, kept) = (one.clone(), id.clone());
    let keeper = Workers::run(1, move |stop| installation::keep(broker.clone(), kept.clone(), stop));
    let back = async || store.load("installation").await.unwrap();
    poll::until("it is back", CEILING, back).await.unwrap();
    assert_eq!(installation::id(&other).await.unwrap(), id);
    keeper.stop().await;

    let entry = store.load("installation").await.unwrap();
    assert!(store.save("installation", "no id".into(), entry.as_ref()).await.unwrap());
    let error = installation::id(&other).await.unwrap_err().to_string();
    assert!(error.contains("nats kv del asides installation"), "{error}");
}
