//! `request_header`: an authority that may state any identity must stand alone.

use crate::model::{Config, RequestHeader};
use crate::raw::{self, at_value};
use crate::report::Problems;

/// Notes what is without effect, and what would let others state identities.
pub(super) fn check(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let Some(raw) = &file.request_header else {
        return;
    };
    let set = &config.request_header;
    let Some(client_ca) = &set.client_ca else {
        let usual = RequestHeader::default();
        let written = [
            (
                "allowed_names",
                &raw.allowed_names,
                set.allowed_names != usual.allowed_names,
            ),
            (
                "user_headers",
                &raw.user_headers,
                set.user_headers != usual.user_headers,
            ),
            (
                "group_headers",
                &raw.group_headers,
                set.group_headers != usual.group_headers,
            ),
            (
                "uid_headers",
                &raw.uid_headers,
                set.uid_headers != usual.uid_headers,
            ),
            (
                "extra_prefixes",
                &raw.extra_prefixes,
                set.extra_prefixes != usual.extra_prefixes,
            ),
        ];
        for (key, list, unusual) in written {
            let list = list.as_ref().filter(|_| unusual);
            if list.is_some() {
                problems.add(
                    at_value(list),
                    format!("request_header.{key} is without effect: request_header.client_ca says who may state identities"),
                    "client_ca beside it, or neither",
                );
            }
        }
        return;
    };
    let place = at_value(raw.client_ca.as_ref());
    let others = [
        ("tls.client_ca", Some(&config.tls.client_ca)),
        ("reserved.client_ca", config.reserved.client_ca.as_ref()),
    ];
    for (key, other) in others {
        if other == Some(client_ca) {
            problems.add(
                place,
                format!("request_header.client_ca is also {key}: each client certificate of it could state any identity"),
                "an authority of its own",
            );
        }
    }
    let written = raw.user_headers.as_ref();
    if set.user_headers.is_empty() && written.is_some_and(|list| list.value.is_empty()) {
        problems.add(
            at_value(written),
            "request_header.user_headers is empty: nobody could be stated",
            "at least one header, as X-Remote-User",
        );
    }
}
