//! Writes the corpora to `corpus/<target>/<number>`, where cargo-fuzz looks for them.

use std::path::Path;

use headrace_fuzz::{seeds, targets};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    for (name, _) in targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds::of(name).await.into_iter().enumerate() {
            std::fs::write(folder.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}
