//! In which shape a client wants objects: whole, as metadata, or as a table.
//!
//! All three are assembled from the stored encoding without decoding it.

use std::fmt::Write as _;

use serde_json::Value;

use super::clock;
use super::object::Object;
use super::request::Query;
use super::resources::Resource;
use super::status::ApiError;

/// What a table row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

/// The negotiated representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// `as=PartialObjectMetadata(List)`.
    Metadata,
    /// `as=Table`: one row per object.
    Table(Include),
}

impl Form {
    /// The first acceptable media range; 406 when there is none. The model
    /// speaks JSON only: clients that prefer protobuf name JSON second.
    pub(super) fn negotiate(accept: Option<&str>, query: &Query) -> Result<Self, ApiError> {
        let accept = accept.unwrap_or("*/*");
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            if !matches!(media, "" | "application/json" | "*/*" | "application/*") {
                continue;
            }
            return match parts.find_map(|part| part.strip_prefix("as=")) {
                None => Ok(Self::Whole),
                Some("Table") => Ok(Self::Table(match query.get("includeObject") {
                    Some("None") => Include::None,
                    Some("Object") => Include::Object,
                    _ => Include::Metadata,
                })),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Ok(Self::Metadata),
                Some(_) => continue,
            };
        }
        Err(ApiError::not_acceptable())
    }

    /// Bytes an object of `len` takes in this form, roughly.
    pub(super) fn estimate(self, len: u64) -> u64 {
        match self {
            Self::Whole | Self::Table(Include::Object) => len,
            Self::Metadata | Self::Table(_) => len.min(600),
        }
    }

    /// Opening of a list: everything up to the first item.
    pub(super) fn open(self, resource: &Resource, list_meta: &str, out: &mut Vec<u8>) {
        let text = match self {
            Self::Whole => format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{list_meta},\"items\":[",
                resource.kind,
                resource.api_version(),
            ),
            Self::Metadata => format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{list_meta},\"items\":["
            ),
            Self::Table(_) => format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{list_meta},\"columnDefinitions\":{},\"rows\":[",
                columns(resource)
            ),
        };
        out.extend_from_slice(text.as_bytes());
    }

    /// One list item.
    pub(super) fn item(self, resource: &Resource, object: &Object, now: u64, out: &mut Vec<u8>) {
        match self {
            Self::Whole => {
                out.push(b'{');
                out.extend_from_slice(object.item_tail());
            }
            Self::Metadata => metadata(object, out),
            Self::Table(include) => row(resource, object, include, now, out),
        }
    }

    /// End of a list.
    pub(super) fn close(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"]}\n");
    }

    /// One object by itself.
    pub(super) fn single(self, resource: &Resource, object: &Object, now: u64, out: &mut Vec<u8>) {
        match self {
            Self::Whole => out.extend_from_slice(object.json()),
            Self::Metadata => metadata(object, out),
            Self::Table(include) => {
                let meta = format!("{{\"resourceVersion\":\"{}\"}}", object.version);
                self.open(resource, &meta, out);
                row(resource, object, include, now, out);
                out.extend_from_slice(b"]}");
            }
        }
    }
}

fn metadata(object: &Object, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",",
    );
    out.extend_from_slice(object.metadata());
    out.push(b'}');
}

fn has_phase(resource: &Resource) -> bool {
    matches!(
        resource.plural,
        "pods" | "namespaces" | "persistentvolumes" | "persistentvolumeclaims"
    )
}

fn columns(resource: &Resource) -> String {
    let column = |name: &str, format: &str, text: &str| {
        format!(
            "{{\"name\":\"{name}\",\"type\":\"string\",\"format\":\"{format}\",\"description\":\"{text}\",\"priority\":0}}"
        )
    };
    let mut columns = vec![column(
        "Name",
        "name",
        "Name must be unique within a namespace.",
    )];
    if has_phase(resource) {
        columns.push(column("Status", "", "The phase the object is in."));
    }
    columns.push(column("Age", "", "Time since its creation."));
    format!("[{}]", columns.join(","))
}

fn row(resource: &Resource, object: &Object, include: Include, now: u64, out: &mut Vec<u8>) {
    let mut cells = format!("{{\"cells\":[{}", Value::from(&*object.name));
    if has_phase(resource) {
        // Writing to a string does not fail.
        let _ = write!(cells, ",{}", Value::from(object.phase().unwrap_or("")));
    }
    let _ = write!(cells, ",\"{}\"]", clock::age(object.created, now));
    out.extend_from_slice(cells.as_bytes());
    match include {
        Include::None => {}
        Include::Metadata => {
            out.extend_from_slice(b",\"object\":");
            metadata(object, out);
        }
        Include::Object => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(object.json());
        }
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resources;

    fn form(accept: &str) -> Result<Form, ApiError> {
        Form::negotiate(Some(accept), &Query::default())
    }

    #[test]
    fn the_first_acceptable_range_decides() {
        assert_eq!(
            form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").unwrap(),
            Form::Table(Include::Metadata)
        );
        assert_eq!(
            form("application/vnd.kubernetes.protobuf, application/json").unwrap(),
            Form::Whole
        );
        assert_eq!(
            form("application/vnd.kubernetes.protobuf")
                .unwrap_err()
                .code,
            406
        );
    }

    #[test]
    fn every_form_is_valid_json() {
        let pods = resources::by_plural("pods").unwrap();
        let object = Object::encode(
            "v1",
            "Pod",
            json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}}),
            0,
        );
        for form in [
            Form::Whole,
            Form::Metadata,
            Form::Table(Include::None),
            Form::Table(Include::Metadata),
            Form::Table(Include::Object),
        ] {
            let mut list = Vec::new();
            form.open(pods, "{}", &mut list);
            form.item(pods, &object, 60, &mut list);
            list.push(b',');
            form.item(pods, &object, 60, &mut list);
            form.close(&mut list);
            let list: Value = serde_json::from_slice(&list).unwrap();
            let items = list.get("items").or_else(|| list.get("rows")).unwrap();
            assert_eq!(items.as_array().unwrap().len(), 2, "{form:?}");
            let mut single = Vec::new();
            form.single(pods, &object, 60, &mut single);
            let single: Value = serde_json::from_slice(&single).unwrap();
            assert!(single["kind"].is_string());
            if matches!(form, Form::Table(_)) {
                assert_eq!(list["rows"][0]["cells"], json!(["a", "Running", "60s"]));
                assert_eq!(list["columnDefinitions"].as_array().unwrap().len(), 3);
            }
        }
    }
}
