//! Reviews and token requests: answered, never stored.

use serde_json::{Value, json};

use super::auth::{ANONYMOUS, Authenticator, User};
use super::clock;
use super::request::Target;
use super::resources;
use super::status::ApiError;
use super::store::Store;
use super::tokens::{ISSUER, Subject};

/// Bounds of a token's lifetime, in seconds.
const MIN_LIFETIME: u64 = 600;
const MAX_LIFETIME: u64 = 1 << 32;

fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the review is not JSON: {error}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request("the review is not an object"))
    }
}

/// POST to one of the review resources.
pub(super) fn answer(
    resource: &str,
    kind: &str,
    api_version: &str,
    user: &User,
    auth: &Authenticator,
    store: &Store,
    body: &[u8],
) -> Result<Value, ApiError> {
    let mut review = parse(body)?;
    review["kind"] = json!(kind);
    review["apiVersion"] = json!(api_version);
    let allowed = |user: &str| json!({"allowed": user != ANONYMOUS, "reason": "model"});
    review["status"] = match resource {
        "selfsubjectreviews" => json!({"userInfo": user.to_json()}),
        "tokenreviews" => {
            let token = review["spec"]["token"].as_str().unwrap_or("");
            match auth.token_user(token, store) {
                Some(user) => {
                    json!({"authenticated": true, "user": user.to_json(), "audiences": [ISSUER]})
                }
                None => json!({"user": {}, "error": "invalid bearer token"}),
            }
        }
        "selfsubjectaccessreviews" => allowed(&user.name),
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        _ => allowed(review["spec"]["user"].as_str().unwrap_or("")),
    };
    Ok(review)
}

/// POST to `serviceaccounts/NAME/token`.
pub(super) fn token_request(
    target: &Target,
    auth: &Authenticator,
    store: &Store,
    body: &[u8],
) -> Result<Value, ApiError> {
    let mut request = parse(body)?;
    let namespace = target.namespace.as_deref().unwrap_or("");
    let name = target.name.as_deref().unwrap_or("");
    let find = |plural: &'static str, namespace: &str, name: &str| {
        resources::by_plural(plural)
            .ok_or_else(ApiError::no_such_path)
            .and_then(|resource| store.get(resource, namespace, name))
    };
    let account = find("serviceaccounts", namespace, name)?;
    let spec = &request["spec"];
    let lifetime = spec["expirationSeconds"]
        .as_u64()
        .unwrap_or(3600)
        .clamp(MIN_LIFETIME, MAX_LIFETIME);
    let mut audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let bound = &spec["boundObjectRef"];
    let pod = match (bound["kind"].as_str(), bound["name"].as_str()) {
        (Some("Pod"), Some(pod)) => Some(find("pods", namespace, pod)?),
        _ => None,
    };
    let node = pod
        .as_ref()
        .and_then(|pod| pod.value()["spec"]["nodeName"].as_str().map(str::to_owned))
        .map(|node| {
            let uid =
                find("nodes", "", &node).map_or_else(|_| String::new(), |n| n.uid.to_string());
            (node, uid)
        });
    let now = clock::unix_now();
    let token = auth
        .tokens
        .issue(
            &Subject {
                namespace,
                account: (name, &account.uid),
                pod: pod.as_ref().map(|pod| (&*pod.name, &*pod.uid)),
                node: node
                    .as_ref()
                    .map(|(name, uid)| (name.as_str(), uid.as_str())),
            },
            &audiences,
            now,
            lifetime,
        )
        .map_err(|error| ApiError::internal(error.to_string()))?;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["status"] = json!({
        "token": token,
        "expirationTimestamp": clock::rfc3339(now + lifetime),
    });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(lifetime);
    Ok(request)
}
