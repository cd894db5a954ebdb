//! Just enough protobuf for what typed clients (`kubectl` since 1.31) send:
//! the small kinds of `kubectl create` and `kubectl auth`, leases, and delete
//! options. Answers are JSON, which such clients accept.
//!
//! Field numbers are those of Kubernetes' `generated.proto` files.

use serde_json::{Map, Value, json};

/// The content type this is for.
pub(super) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Precedes every encoded object.
const MAGIC: &[u8] = b"k8s\0";

/// How a field is read.
enum Kind {
    Text,
    Number,
    Texts,
    Map,
    /// Seconds and nanoseconds since the epoch, as RFC 3339 with
    /// microseconds.
    MicroTime,
    Message(&'static [Field]),
}

struct Field(u64, &'static str, Kind);

static METADATA: &[Field] = &[
    Field(1, "name", Kind::Text),
    Field(2, "generateName", Kind::Text),
    Field(3, "namespace", Kind::Text),
    Field(5, "uid", Kind::Text),
    Field(6, "resourceVersion", Kind::Text),
    Field(11, "labels", Kind::Map),
    Field(12, "annotations", Kind::Map),
];
static PLAIN: &[Field] = &[Field(1, "metadata", Kind::Message(METADATA))];
static CONFIG_MAP: &[Field] = &[
    Field(1, "metadata", Kind::Message(METADATA)),
    Field(2, "data", Kind::Map),
];
static LEASE: &[Field] = &[
    Field(1, "metadata", Kind::Message(METADATA)),
    Field(
        2,
        "spec",
        Kind::Message(&[
            Field(1, "holderIdentity", Kind::Text),
            Field(2, "leaseDurationSeconds", Kind::Number),
            Field(3, "acquireTime", Kind::MicroTime),
            Field(4, "renewTime", Kind::MicroTime),
            Field(5, "leaseTransitions", Kind::Number),
        ]),
    ),
];
static TOKEN_REVIEW: &[Field] = &[
    Field(1, "metadata", Kind::Message(METADATA)),
    Field(
        2,
        "spec",
        Kind::Message(&[
            Field(1, "token", Kind::Text),
            Field(2, "audiences", Kind::Texts),
        ]),
    ),
];
static TOKEN_REQUEST: &[Field] = &[
    Field(1, "metadata", Kind::Message(METADATA)),
    Field(
        2,
        "spec",
        Kind::Message(&[
            Field(1, "audiences", Kind::Texts),
            Field(
                3,
                "boundObjectRef",
                Kind::Message(&[
                    Field(1, "kind", Kind::Text),
                    Field(2, "apiVersion", Kind::Text),
                    Field(3, "name", Kind::Text),
                    Field(4, "uid", Kind::Text),
                ]),
            ),
            Field(4, "expirationSeconds", Kind::Number),
        ]),
    ),
];
static ACCESS_REVIEW: &[Field] = &[
    Field(1, "metadata", Kind::Message(METADATA)),
    Field(
        2,
        "spec",
        Kind::Message(&[
            Field(3, "user", Kind::Text),
            Field(4, "groups", Kind::Texts),
        ]),
    ),
];
static DELETE_OPTIONS: &[Field] = &[
    Field(1, "gracePeriodSeconds", Kind::Number),
    Field(
        2,
        "preconditions",
        Kind::Message(&[
            Field(1, "uid", Kind::Text),
            Field(2, "resourceVersion", Kind::Text),
        ]),
    ),
    Field(4, "propagationPolicy", Kind::Text),
    Field(5, "dryRun", Kind::Texts),
];
static TYPE_META: &[Field] = &[
    Field(1, "apiVersion", Kind::Text),
    Field(2, "kind", Kind::Text),
];

fn schema(kind: &str) -> Option<&'static [Field]> {
    Some(match kind {
        "Namespace"
        | "ServiceAccount"
        | "SelfSubjectReview"
        | "SelfSubjectAccessReview"
        | "SelfSubjectRulesReview" => PLAIN,
        "ConfigMap" => CONFIG_MAP,
        "Lease" => LEASE,
        "TokenReview" => TOKEN_REVIEW,
        "TokenRequest" => TOKEN_REQUEST,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => ACCESS_REVIEW,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

/// An encoded object as JSON; `None` for kinds the model does not know and
/// for bytes that are no such object.
pub(super) fn decode(body: &[u8]) -> Option<Value> {
    let mut type_meta = json!({});
    let mut raw: &[u8] = &[];
    // `runtime.Unknown`: 1 the type, 2 the object.
    for field in Reader(body.strip_prefix(MAGIC)?) {
        match field? {
            (1, Wire::Bytes(bytes)) => type_meta = message(bytes, TYPE_META)?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = message(raw, schema(type_meta["kind"].as_str()?)?)?;
    object["kind"] = type_meta["kind"].take();
    object["apiVersion"] = type_meta["apiVersion"].take();
    Some(object)
}

fn message(bytes: &[u8], fields: &'static [Field]) -> Option<Value> {
    let mut object = Map::new();
    for field in Reader(bytes) {
        let (number, wire) = field?;
        let Some(Field(_, name, kind)) = fields.iter().find(|field| field.0 == number) else {
            continue;
        };
        match (kind, wire) {
            (Kind::Number, Wire::Varint(value)) => {
                object.insert((*name).to_owned(), json!(value));
            }
            (Kind::Text, Wire::Bytes(bytes)) => {
                object.insert((*name).to_owned(), json!(text(bytes)?));
            }
            (Kind::MicroTime, Wire::Bytes(bytes)) => {
                object.insert((*name).to_owned(), micro_time(bytes)?);
            }
            (Kind::Message(fields), Wire::Bytes(bytes)) => {
                object.insert((*name).to_owned(), message(bytes, fields)?);
            }
            (Kind::Texts, Wire::Bytes(bytes)) => {
                let list = object.entry(*name).or_insert_with(|| json!([]));
                list.as_array_mut()?.push(json!(text(bytes)?));
            }
            (Kind::Map, Wire::Bytes(bytes)) => {
                let (mut key, mut value) = ("", "");
                for field in Reader(bytes) {
                    match field? {
                        (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => value = text(bytes)?,
                        _ => {}
                    }
                }
                let map = object.entry(*name).or_insert_with(|| json!({}));
                map.as_object_mut()?.insert(key.to_owned(), json!(value));
            }
            _ => return None,
        }
    }
    // An empty string is an absent field.
    object.retain(|_, value| *value != json!(""));
    Some(Value::Object(object))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn micro_time(bytes: &[u8]) -> Option<Value> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Reader(bytes) {
        match field? {
            (1, Wire::Varint(value)) => seconds = value,
            (2, Wire::Varint(value)) => nanos = value,
            _ => {}
        }
    }
    // Years beyond 9999 have no RFC 3339.
    if seconds > 253_402_300_799 || nanos > 999_999_999 {
        return None;
    }
    let whole = super::clock::rfc3339(seconds);
    Some(json!(format!(
        "{}.{:06}Z",
        whole.trim_end_matches('Z'),
        nanos / 1000
    )))
}

enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Fields of a message: number and value; `None` once where it is broken.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, wire))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(value.len()).unwrap()];
        out.extend_from_slice(value);
        out
    }

    fn object(kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [bytes(1, b"v1"), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, raw)].concat()
    }

    #[test]
    fn known_kinds_become_json() {
        let label = [bytes(1, b"k"), bytes(2, b"v")].concat();
        let metadata = [bytes(1, b"a"), bytes(2, b""), bytes(11, &label)].concat();
        let raw = [bytes(1, &metadata), bytes(2, &label)].concat();
        assert_eq!(
            decode(&object("ConfigMap", &raw)).unwrap(),
            json!({"kind": "ConfigMap", "apiVersion": "v1",
                "metadata": {"name": "a", "labels": {"k": "v"}}, "data": {"k": "v"}})
        );
        let renewed = bytes(4, &[1 << 3, 100, 2 << 3, 0xe8, 0x07]);
        assert_eq!(
            decode(&object("Lease", &bytes(2, &renewed))).unwrap()["spec"]["renewTime"],
            "1970-01-01T00:01:40.000001Z"
        );
    }

    #[test]
    fn unknown_kinds_and_broken_bytes_are_refused() {
        assert!(decode(&object("Pod", b"")).is_none());
        assert!(decode(b"{}").is_none());
        let whole = object("Namespace", &bytes(1, &bytes(1, b"a")));
        assert!(decode(&whole).is_some());
        for end in 0..whole.len() {
            // Cut inside a field it is broken; between fields it has no kind.
            if decode(&whole[..end]).is_some() {
                assert_eq!(end, 4 + 2 + 4 + 11, "only before the object itself");
            }
        }
    }
}
