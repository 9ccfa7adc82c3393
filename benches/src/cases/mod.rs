//! The cases. Each starts its servers, loads them, counts what came out, and reports what it cost.

mod chain;
mod crash;
mod durability;
mod faults;
mod ingest;
mod large_bodies;
mod latency;
mod micro;
mod outage;
mod rules;

use serde::Serialize;

use crate::cli::{Case, Cli};
use crate::compare;
use crate::report::{conclude, print};
use crate::servers::Product;

/// Runs the case that `cli` names.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.case {
        Case::Ingest(options) => block_on(ingest::run(options)),
        Case::Chain(options) => block_on(chain::run(options)),
        Case::Latency(options) => block_on(latency::run(options)),
        Case::Faults(options) => block_on(faults::run(options)),
        Case::Outage(options) => block_on(outage::run(options)),
        Case::Crash(options) => block_on(crash::run(options)),
        Case::LargeBodies(options) => block_on(large_bodies::run(options)),
        Case::Durability(options) => block_on(durability::run(options)),
        Case::Micro(options) => micro::run(options),
        Case::Compare(options) => compare::run(&options),
    }
}

fn block_on(case: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(case)
}

/// Stops the product, prints what was found, and fails if there are `problems`. Then it shows the logs too.
async fn end<F: Serialize>(product: Product, found: &F, problems: Vec<String>) -> anyhow::Result<()> {
    if !problems.is_empty() {
        eprintln!("{}", product.logs());
    }
    product.stop().await;
    print(found)?;
    conclude(problems)
}
