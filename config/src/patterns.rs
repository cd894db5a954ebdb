//! The value syntax of rule conditions: the words and patterns of the decision core.
//!
//! This crate does not depend on the core, so the words stand here a second time. A word
//! the core does not know is refused when the rules are compiled; here it is refused
//! with its position.

use std::net::IpAddr;

use crate::resolve::unknown;

/// Verbs of RequestInfo; the last four only outside the resource API.
const VERBS: [&str; 13] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
    "post",
    "put",
    "head",
    "options",
];

/// How an identity became known.
const SOURCES: [&str; 6] = [
    "certificate",
    "request-header",
    "service-account",
    "learned",
    "anonymous",
    "unattributed",
];

/// How much of the API a request addresses.
const SCOPES: [&str; 4] = ["named", "namespaced", "cluster", "non-resource"];

/// What a request looks like.
const SHAPES: [&str; 10] = [
    "collection",
    "unlimited",
    "paged",
    "all-namespaces",
    "initial-watch",
    "watch-start",
    "from-etcd",
    "any-version",
    "long-running",
    "dry-run",
];

/// The form of a service account in lists that name one exactly.
pub(crate) const SERVICE_ACCOUNT: &str = "namespace/name, as kube-system/coredns";

/// An entry without its excluding mark.
fn bare(entry: &str) -> &str {
    entry.strip_prefix('!').unwrap_or(entry)
}

/// What the lists of one field accept, for people.
pub(crate) fn accepted(field: &str) -> String {
    let pattern = match field {
        "verbs" => VERBS.join(", "),
        "sources" => SOURCES.join(", "),
        "scopes" => SCOPES.join(", "),
        "shapes" => SHAPES.join(", "),
        "addresses" => "an address or a network, as 10.0.0.0/8 or fd00::/8".to_owned(),
        "service_accounts" => "namespace/name, namespace/* or *".to_owned(),
        "resources" => "pods, pods/status, pods/*, */scale or *".to_owned(),
        "non_resource" => "a path, as /metrics or /livez/*".to_owned(),
        "api_groups" => "an API group, \"\" or core for the core group".to_owned(),
        _ => "a text, or a prefix with one `*` at its end".to_owned(),
    };
    format!("{pattern}; \"!…\" excludes")
}

/// Judges one entry of a condition.
pub(crate) fn check(field: &str, entry: &str) -> Result<(), String> {
    let text = bare(entry);
    let word = |known: &[&str]| {
        if known.contains(&text) {
            Ok(())
        } else {
            Err(unknown(text, known))
        }
    };
    if text.is_empty() && field != "api_groups" {
        return Err("the value is empty".to_owned());
    }
    match field {
        "verbs" => word(&VERBS),
        "sources" => word(&SOURCES),
        "scopes" => word(&SCOPES),
        "shapes" => word(&SHAPES),
        "addresses" => network(text),
        "service_accounts" if text == "*" => Ok(()),
        "service_accounts" => match text.split_once('/') {
            Some((namespace, _)) if namespace.contains('*') => Err(format!(
                "`{text}` has a pattern for a namespace, which is not supported"
            )),
            _ => service_account(text).and_then(|()| prefix(text)),
        },
        "resources" => resource(text),
        "non_resource" if text == "*" || text.starts_with('/') => prefix(text),
        "non_resource" => Err(format!("`{text}` does not begin with `/`")),
        _ => prefix(text),
    }
}

/// An exact text, or a prefix with a `*` at its end.
fn prefix(text: &str) -> Result<(), String> {
    let start = text.strip_suffix('*').unwrap_or(text);
    if start.contains('*') {
        return Err(format!("`{text}` has a `*` before its end"));
    }
    Ok(())
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*`.
fn resource(text: &str) -> Result<(), String> {
    let sound = |part: &str| !part.is_empty() && (part == "*" || !part.contains(['*', '/']));
    let (resource, subresource) = text.split_once('/').unwrap_or((text, "*"));
    if sound(resource) && sound(subresource) {
        Ok(())
    } else {
        Err(format!("`{text}` is not a resource"))
    }
}

/// `namespace/name`.
pub(crate) fn service_account(text: &str) -> Result<(), String> {
    if let Some(rest) = text.strip_prefix("system:serviceaccount:") {
        let name = rest.replacen(':', "/", 1);
        return Err(format!("`{text}` is a user name; write {name}"));
    }
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(())
        }
        _ => Err(format!("`{text}` is not namespace/name")),
    }
}

/// An address, or a network whose host bits are zero.
fn network(text: &str) -> Result<(), String> {
    let wrong = || format!("`{text}` is not an address or a network");
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<IpAddr>().map(|_| ()).map_err(|_| wrong());
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix: u32 = prefix.parse().map_err(|_| wrong())?;
    // Both families as 128 bits, the v4 address on top.
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    if prefix > width {
        return Err(format!("`{text}`: the prefix is longer than {width}"));
    }
    if bits.checked_shl(prefix).unwrap_or(0) != 0 {
        return Err(format!(
            "`{text}` has bits set behind its prefix; a single address is written /{width}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_judged_in_both_families() {
        for good in [
            "10.0.0.1",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "10.0.0.1/32",
            "fd00::/8",
            "::1/128",
            "!10.0.0.0/8",
        ] {
            assert_eq!(check("addresses", good), Ok(()), "{good}");
        }
        for bad in [
            "10.0.0.0/33",
            "10.0.0.1/8",
            "fd00::1/8",
            "::/129",
            "node-1",
            "10/8",
            "1.2.3.4/",
            "!",
        ] {
            assert!(check("addresses", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_account_is_named_by_namespace_and_name() {
        for good in [
            "kube-system/coredns",
            "kube-system/*",
            "kube-system/kube-*",
            "*",
            "!ci/*",
        ] {
            assert_eq!(check("service_accounts", good), Ok(()), "{good}");
        }
        for bad in [
            "coredns",
            "/coredns",
            "kube-system/",
            "a/b/c",
            "*/coredns",
            "a/*b",
        ] {
            assert!(check("service_accounts", bad).is_err(), "{bad}");
        }
        let hint = service_account("system:serviceaccount:kube-system:coredns");
        assert!(hint.is_err_and(|why| why.contains("write kube-system/coredns")));
    }

    #[test]
    fn patterns_are_prefixes_words_are_words() {
        for (field, good) in [
            ("users", "system:*"),
            ("users", "!system:node:*"),
            ("api_groups", ""),
            ("api_groups", "!"),
            ("resources", "pods/*"),
            ("resources", "*/scale"),
            ("resources", "!*"),
            ("non_resource", "/livez/*"),
            ("verbs", "!list"),
            ("shapes", "from-etcd"),
        ] {
            assert_eq!(check(field, good), Ok(()), "{field}: {good}");
        }
        for (field, bad) in [
            ("users", "*:node"),
            ("users", ""),
            ("users", "!"),
            ("resources", "po*"),
            ("resources", "pods/"),
            ("resources", "a/b/c"),
            ("non_resource", "livez"),
            ("verbs", "LIST"),
            ("shapes", "round"),
        ] {
            assert!(check(field, bad).is_err(), "{field}: {bad}");
        }
    }
}
