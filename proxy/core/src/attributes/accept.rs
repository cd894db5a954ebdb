//! How the answer will be encoded: the `Accept` header, as the server reads it.
//!
//! The server takes the clause of the highest `q`, first come first served, and
//! honours `as=Table` and `as=PartialObjectMetadata[List]` on it
//! (`apiserver:pkg/endpoints/handlers/negotiation`). The encoding decides what
//! an object costs: Table is neither cached nor streamed, partial metadata is
//! small, JSON costs several times what protobuf does.

use super::Encoding;

/// Reads an `Accept` header; absent or empty means JSON, the server's default.
///
/// A clause the server might not be able to serve (protobuf for a custom
/// resource) is still taken at its word: the cost learned from responses
/// corrects that, and no header can make a request's *class* better.
pub(super) fn encoding(accept: Option<&str>) -> Encoding {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else {
        return Encoding::Json;
    };
    let mut best: Option<(u32, Encoding)> = None;
    for clause in accept.split(',') {
        let (quality, encoding) = read(clause);
        if quality > 0 && best.is_none_or(|(highest, _)| quality > highest) {
            best = Some((quality, encoding));
        }
    }
    best.map_or(Encoding::Other, |(_, encoding)| encoding)
}

/// One clause: its quality in thousandths, and what it asks for.
fn read(clause: &str) -> (u32, Encoding) {
    let mut fields = clause.split(';').map(str::trim);
    let media_type = fields.next().unwrap_or_default();
    let mut quality = 1_000;
    let mut shape = "";
    for field in fields {
        let Some((name, value)) = field.split_once('=') else {
            continue;
        };
        match name.trim() {
            "q" => quality = thousandths(value.trim()),
            "as" => shape = value.trim(),
            _ => {}
        }
    }
    let is = |name: &str| media_type.eq_ignore_ascii_case(name);
    let protobuf = is("application/vnd.kubernetes.protobuf");
    let encoding = match shape {
        "Table" => Encoding::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" => {
            Encoding::PartialMetadata { protobuf }
        }
        _ if protobuf => Encoding::Protobuf,
        _ if is("application/json") || is("*/*") || is("application/*") => Encoding::Json,
        _ if is("application/cbor") || is("application/cbor-seq") => Encoding::Cbor,
        _ => Encoding::Other,
    };
    (quality, encoding)
}

/// `q` in thousandths; what does not parse counts as 1, as the server has it.
fn thousandths(text: &str) -> u32 {
    match text.parse::<f64>() {
        // In range by the guard, so the cast only drops the fraction.
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1_000.0) as u32,
        _ => 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encodings_clients_really_ask_for_are_recognised() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                     application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;\
                       g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList";
        for (accept, expected) in [
            (None, Encoding::Json),
            (Some(""), Encoding::Json),
            (Some("*/*"), Encoding::Json),
            (Some("application/json, */*"), Encoding::Json),
            (
                Some("application/vnd.kubernetes.protobuf, application/json"),
                Encoding::Protobuf,
            ),
            (
                Some("application/vnd.kubernetes.protobuf;stream=watch"),
                Encoding::Protobuf,
            ),
            (Some("application/cbor"), Encoding::Cbor),
            (Some(table), Encoding::Table),
            (Some(partial), Encoding::PartialMetadata { protobuf: true }),
            (Some("application/yaml"), Encoding::Other),
            (
                Some("application/json;q=0.1,application/cbor;q=0.9"),
                Encoding::Cbor,
            ),
            (Some("application/json;q=0"), Encoding::Other),
            (Some(",;=;,q=;"), Encoding::Other),
        ] {
            assert_eq!(encoding(accept), expected, "{accept:?}");
        }
    }
}
