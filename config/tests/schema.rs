//! `schema.json` is what editors are pointed at, so it must say what the parser does.
//!
//! After a change of the model, write it anew with
//! `UPDATE_SCHEMA=1 cargo test -p config --test schema`.

use std::fs;
use std::path::Path;

use config::schema;

#[test]
fn the_committed_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
    let current = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "schema.json is stale; run UPDATE_SCHEMA=1 cargo test -p config --test schema"
    );
}
