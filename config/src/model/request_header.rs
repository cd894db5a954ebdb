//! Who may state another's identity: `request_header`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

/// `request_header`: clients that may state somebody else's identity in headers, as
/// kube-apiserver's `--requestheader-*` flags have it for us: an authenticating proxy, an
/// aggregator or a peer apiserver in front of the main lane.
///
/// Off unless `client_ca` is given. The reserved lane never accepts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct RequestHeader {
    /// `client_ca`: PEM bundle their certificates must chain to; must not share an
    /// authority with `tls.client_ca` or `reserved.client_ca`. Default none: nobody may.
    pub client_ca: Option<PathBuf>,
    /// `allowed_names`: common names those certificates may have; empty = any
    /// certificate of that authority, as the server's flag. Default none.
    pub allowed_names: Vec<String>,
    /// `user_headers`: the first of these whose value is not empty is the user.
    /// Default `X-Remote-User`.
    pub user_headers: Vec<String>,
    /// `group_headers`: every value of these that is not empty is a group.
    /// Default `X-Remote-Group`.
    pub group_headers: Vec<String>,
    /// `uid_headers`: the first of these whose value is not empty is the uid. Default
    /// none, as the server's flag.
    pub uid_headers: Vec<String>,
    /// `extra_prefixes`: what follows one of these in a header's name is the key of an
    /// extra. Default `X-Remote-Extra-`.
    pub extra_prefixes: Vec<String>,
}

impl Default for RequestHeader {
    fn default() -> Self {
        Self {
            client_ca: None,
            allowed_names: Vec::new(),
            user_headers: vec!["X-Remote-User".to_owned()],
            group_headers: vec!["X-Remote-Group".to_owned()],
            uid_headers: Vec::new(),
            extra_prefixes: vec!["X-Remote-Extra-".to_owned()],
        }
    }
}
