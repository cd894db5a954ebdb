//! Differences that must be, each with its reason.

use super::call::Step;
use super::compare::Found;
use super::observed::Observed;
use super::player::Version;
use super::stage::CLIENT;
use super::who::Who;

/// A reason for differences, and which it explains.
pub(super) struct Reason {
    /// A word to refer to it by.
    pub(super) id: &'static str,
    /// Why it must be so.
    pub(super) why: &'static str,
    explains: fn(&Case<'_>) -> bool,
}

/// A difference and where it was found.
pub(super) struct Case<'a> {
    pub(super) found: &'a Found,
    pub(super) step: &'a Step,
    pub(super) caller: Who,
    pub(super) version: Version,
    pub(super) straight: &'a Observed,
    pub(super) proxied: &'a Observed,
}

/// The reason for a difference, if there is one.
pub(super) fn reason(case: &Case<'_>) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| (reason.explains)(case))
}

/// Statuses of what Spillway refuses by itself.
const REFUSALS: [u16; 4] = [400, 405, 417, 500];

const REASONS: &[Reason] = &[
    Reason {
        id: "certificate-refused",
        why: "A certificate that is not good, without a token, is refused before the server is \
              asked: with the same words, but always as JSON, and without an audit event.",
        explains: |case| {
            case.straight.status == 401
                && case.proxied.status == 401
                && case.proxied.audit_id().is_none()
                && matches!(case.caller, Who::Expired | Who::Stranger)
        },
    },
    Reason {
        id: "message-refused",
        why: "A message that Go's server takes or refuses in other words, and that no Kubernetes \
              client sends, is refused before the server is asked, because two servers could read \
              it differently.",
        explains: |case| {
            case.step.refused.is_some()
                && case.proxied.audit_id().is_none()
                && REFUSALS.contains(&case.proxied.status)
        },
    },
    Reason {
        id: "fragment",
        why: "A fragment is no part of a request (RFC 9112, 3.2) and is dropped; Go takes it for \
              part of the path. What is judged is what is sent on.",
        explains: |case| {
            case.step
                .raw_head
                .as_ref()
                .is_some_and(|head| head.contains("#part"))
        },
    },
    Reason {
        id: "source-address",
        why: "The server sees the proxy's connection. The client's own address, told by \
              X-Forwarded-For, stays the first of `sourceIPs`; the proxy's follows.",
        explains: |case| {
            let told = format!("[\"{CLIENT}\",\"127.0.0.1\"]");
            case.found.part.ends_with("/sourceIPs (how many)")
                && case.found.proxied.ends_with(&told)
        },
    },
    Reason {
        id: "source-address-behind",
        why: "What lies behind the API server is told the same addresses by X-Forwarded-For.",
        explains: |case| {
            let straight = format!("\"{CLIENT}\"");
            let proxied = format!("\"{CLIENT}, 127.0.0.1\"");
            let said = case.found.part.ends_with("/headers/X-Forwarded-For/0")
                && case.found.straight == straight
                && case.found.proxied == proxied;
            // And so what tells of it is longer.
            let length = |text: &str| text.trim_matches(['[', ']', '"']).parse::<usize>().ok();
            let longer = case.step.target.contains("/mirror/echo")
                && case.found.part == "header content-length"
                && length(&case.found.straight).map(|straight| straight + ", 127.0.0.1".len())
                    == length(&case.found.proxied);
            said || longer
        },
    },
    Reason {
        id: "forged-address",
        why: "Whoever calls the server itself can forge `sourceIPs` in its audit log with a header. \
              Spillway takes such headers off.",
        explains: |case| {
            let forged = ["x-forwarded-for", "x-real-ip", "forwarded"];
            case.found.part.contains("/sourceIPs/")
                && case
                    .step
                    .headers
                    .iter()
                    .any(|(name, _)| forged.contains(name))
        },
    },
    Reason {
        id: "framing",
        why: "How the end of a message is told belongs to each connection (RFC 9112, 6): Go counts \
              bodies of up to 2 KiB by itself in HTTP/1.1 and of up to 4 KiB in HTTP/2, and the \
              proxy need not ask the server in the version it was asked in.",
        explains: |case| {
            let absent = case.found.straight == "absent" || case.found.proxied == "absent";
            match case.found.part.as_str() {
                "header content-length" => absent,
                "header transfer-encoding" => absent && case.version == Version::Http1,
                "spelling of header content-length" | "spelling of header transfer-encoding" => {
                    case.found.straight.is_empty() || case.found.proxied.is_empty()
                }
                _ => false,
            }
        },
    },
    Reason {
        id: "trailers-unasked",
        why: "Trailers go to those HTTP/1.1 clients that say `TE: trailers`, as RFC 9110 (6.5.1) \
              wants it. The API server itself sends none; only something behind it may.",
        explains: |case| {
            case.version == Version::Http1
                && ["trailers", "header trailer", "spelling of header trailer"]
                    .contains(&case.found.part.as_str())
                && !case.step.headers.iter().any(|(name, _)| *name == "te")
        },
    },
    Reason {
        id: "connection",
        why: "Whether a connection is kept is for each connection to say (RFC 9110, 7.6.1). A \
              server that has not read all of a body closes its own; the proxy does so too, \
              without announcing it.",
        explains: |case| {
            case.version == Version::Http1
                && case.straight.status == case.proxied.status
                && case.found.part.ends_with("header connection")
        },
    },
    Reason {
        id: "continue",
        why: "The proxy asks for the body as soon as a call is admitted, so `100 Continue` comes \
              also when the server then answers without reading it.",
        explains: |case| {
            case.found.part == "interim answers"
                && case.found.straight == "[]"
                && case.found.proxied == "[100]"
        },
    },
    Reason {
        id: "reason-phrase",
        why: "HTTP/2, in which the server is asked, has no words after the status; they mean \
              nothing (RFC 9112, 4), and for 413 Go and Rust know others.",
        explains: |case| {
            case.found.part == "status line"
                && case.straight.status == 413
                && case.proxied.status == 413
        },
    },
    Reason {
        id: "date-of-101",
        why: "An answer that has no date gets one; Go writes none into `101 Switching Protocols`.",
        explains: |case| {
            case.straight.status == 101
                && case.proxied.status == 101
                && case.found.part.ends_with("header date")
        },
    },
    Reason {
        id: "spelling",
        why: "Names of headers have no case (RFC 9110, 5.1). The proxy writes them in HTTP/1.1 as \
              Go's server does, each word with a capital; `Sec-WebSocket-Accept` is written \
              otherwise by something that goes around that.",
        explains: |case| case.found.part == "spelling of header sec-websocket-accept",
    },
];
