//! The JSON Schema of the file, from the model: editors complete and check by it.

use schemars::generate::SchemaSettings;

use crate::model::Config;

/// The schema as it is committed in `schema.json`.
///
/// It knows keys, kinds and ranges of numbers. Ranges of durations and relations
/// between keys are judged by [`Config::parse`] alone.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "Spillway configuration".into());
    schema.to_value()
}
