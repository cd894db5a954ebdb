//! Create, update, patch and delete.

use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Value, json};

use super::clock;
use super::object::Object;
use super::patch::{self, PatchType};
use super::request::{Query, Target};
use super::resources::{self, Resource};
use super::status::{self, ApiError};
use super::store::Store;

/// A patch that keeps losing races is given up after this many tries, as in
/// `apiserver/pkg/endpoints/handlers/patch.go`.
const PATCH_RETRIES: usize = 5;

/// One write to one resource.
pub(super) struct Write<'a> {
    pub(super) store: &'a Store,
    pub(super) resource: &'static Resource,
    pub(super) target: &'a Target,
    pub(super) query: &'a Query,
}

impl Write<'_> {
    fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or("")
    }

    fn name(&self) -> Result<&str, ApiError> {
        self.target
            .name
            .as_deref()
            .ok_or_else(ApiError::method_not_allowed)
    }

    fn dry(&self) -> bool {
        self.query.get("dryRun").is_some()
    }

    fn is_status(&self) -> bool {
        self.target.subresource.as_deref() == Some("status")
    }

    fn object(&self, value: Value, created: u64) -> Object {
        Object::encode(
            &self.resource.api_version(),
            self.resource.kind,
            value,
            created,
        )
    }

    /// Parses a body and checks that it is of this resource.
    fn body(&self, bytes: &[u8]) -> Result<Value, ApiError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            ApiError::bad_request(format!("the object provided is unrecognized: {error}"))
        })?;
        let kind = value["kind"].as_str().unwrap_or(self.resource.kind);
        if !value.is_object() || kind != self.resource.kind {
            return Err(ApiError::bad_request(format!(
                "{kind:?} in the body does not match the expected kind {:?}",
                self.resource.kind
            )));
        }
        Ok(value)
    }

    /// POST to a collection.
    pub(super) fn create(&self, body: &[u8]) -> Result<Arc<Object>, ApiError> {
        let mut value = self.body(body)?;
        let name = match value["metadata"]["name"].as_str() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => match value["metadata"]["generateName"].as_str() {
                Some(prefix) if !prefix.is_empty() => format!("{prefix}{}", suffix()),
                _ => {
                    return Err(ApiError::invalid(
                        self.resource.kind,
                        "",
                        "metadata.name: Required value: name or generateName is required",
                    ));
                }
            },
        };
        self.insert(&mut value, &name)
    }

    fn insert(&self, value: &mut Value, name: &str) -> Result<Arc<Object>, ApiError> {
        let namespace = self.namespace();
        if self.resource.namespaced {
            if namespace.is_empty() {
                return Err(ApiError::method_not_allowed());
            }
            if let Some(other) = value["metadata"]["namespace"]
                .as_str()
                .filter(|n| *n != namespace)
            {
                return Err(ApiError::bad_request(format!(
                    "the namespace of the provided object ({other}) does not match the namespace sent on the request ({namespace})"
                )));
            }
            if let Some(namespaces) = resources::by_plural("namespaces") {
                self.store.get(namespaces, "", namespace)?;
            }
        }
        let created = clock::unix_now();
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        let metadata = &mut value["metadata"];
        metadata["name"] = json!(name);
        if self.resource.namespaced {
            metadata["namespace"] = json!(namespace);
        }
        metadata["uid"] = json!(clock::uuid());
        metadata["creationTimestamp"] = json!(clock::rfc3339(created));
        if has_generation(self.resource) {
            metadata["generation"] = json!(1);
        }
        if let Value::Object(metadata) = metadata {
            metadata.remove("managedFields");
        }
        if self.resource.plural == "namespaces" {
            value["status"] = json!({"phase": "Active"});
            if value["spec"].is_null() {
                value["spec"] = json!({"finalizers": ["kubernetes"]});
            }
        }
        let mut build = |version: u64| {
            let mut value = std::mem::take(value);
            value["metadata"]["resourceVersion"] = json!(version.to_string());
            self.object(value, created)
        };
        if self.dry() {
            return match self.store.get(self.resource, namespace, name) {
                Ok(_) => Err(ApiError::already_exists(self.resource.plural, name)),
                Err(_) => Ok(Arc::new(build(self.store.version()))),
            };
        }
        let object = self.store.create(self.resource, namespace, name, build)?;
        if self.resource.plural == "namespaces" {
            default_account(self.store, name);
        }
        Ok(object)
    }

    /// PUT of an object or its status.
    pub(super) fn update(&self, body: &[u8]) -> Result<Arc<Object>, ApiError> {
        let name = self.name()?;
        let value = self.body(body)?;
        if let Some(other) = value["metadata"]["name"]
            .as_str()
            .filter(|other| *other != name)
        {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({other}) does not match the name on the URL ({name})"
            )));
        }
        let read = self.store.get(self.resource, self.namespace(), name)?;
        self.replace(&read, value)
    }

    /// PATCH; server-side apply creates what is missing.
    pub(super) fn patch(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(Arc<Object>, bool), ApiError> {
        let name = self.name()?;
        let content_type = headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let kind = PatchType::from_content_type(content_type)
            .ok_or_else(|| ApiError::unsupported_media(content_type))?;
        let patch: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the patch is not JSON: {error}")))?;
        for _ in 0..PATCH_RETRIES {
            let read = match self.store.get(self.resource, self.namespace(), name) {
                Err(error) if error.code == 404 && kind == PatchType::Apply => {
                    let mut value = patch;
                    return Ok((self.insert(&mut value, name)?, true));
                }
                read => read?,
            };
            let mut value = read.value();
            // Unless the patch names a version it applies to any.
            if let Value::Object(metadata) = &mut value["metadata"] {
                metadata.remove("resourceVersion");
            }
            patch::apply(kind, &mut value, patch.clone())?;
            let names_version = value["metadata"]["resourceVersion"].is_string();
            match self.replace(&read, value) {
                Err(error) if error.code == 409 && !names_version => {}
                result => return Ok((result?, false)),
            }
        }
        Err(ApiError::modified(self.resource.plural, name))
    }

    /// Stores `value` in place of `read`, keeping what a client may not
    /// change. A write that changes nothing makes no event.
    fn replace(&self, read: &Object, mut value: Value) -> Result<Arc<Object>, ApiError> {
        let expected = value["metadata"]["resourceVersion"].as_str().unwrap_or("");
        if !expected.is_empty() && expected != read.version.to_string() {
            return Err(ApiError::modified(self.resource.plural, &read.name));
        }
        if let Some(uid) = value["metadata"]["uid"].as_str()
            && !uid.is_empty()
            && *uid != *read.uid
        {
            return Err(ApiError::conflict(
                self.resource.plural,
                &read.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    read.uid
                ),
            ));
        }
        let old = read.value();
        if self.is_status() {
            let status = value["status"].take();
            value = old.clone();
            value["status"] = status;
        } else if self.resource.status {
            match old.get("status") {
                Some(status) => value["status"] = status.clone(),
                None => {
                    if let Value::Object(fields) = &mut value {
                        fields.remove("status");
                    }
                }
            }
        }
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "generation",
            "resourceVersion",
        ] {
            match old["metadata"].get(field) {
                Some(kept) => value["metadata"][field] = kept.clone(),
                None => {
                    if let Value::Object(metadata) = &mut value["metadata"] {
                        metadata.remove(field);
                    }
                }
            }
        }
        if let Value::Object(metadata) = &mut value["metadata"] {
            metadata.remove("managedFields");
        }
        value["kind"] = old["kind"].clone();
        value["apiVersion"] = old["apiVersion"].clone();
        if value == old {
            return self.store.get(self.resource, &read.namespace, &read.name);
        }
        if has_generation(self.resource) && value["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
            value["metadata"]["generation"] = json!(generation + 1);
        }
        let build = |version: u64| {
            value["metadata"]["resourceVersion"] = json!(version.to_string());
            self.object(value, read.created)
        };
        if self.dry() {
            return Ok(Arc::new(build(self.store.version())));
        }
        self.store.update(self.resource, read, build)
    }

    /// DELETE of one object, at once: the model knows no grace periods and no
    /// finalizers. A namespace takes what is in it along.
    pub(super) fn delete(&self, body: &[u8]) -> Result<Value, ApiError> {
        let name = self.name()?;
        let read = self.store.get(self.resource, self.namespace(), name)?;
        let options: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let preconditions = &options["preconditions"];
        let differs = |field: &str, have: &str| {
            preconditions[field]
                .as_str()
                .is_some_and(|want| want != have)
        };
        if differs("uid", &read.uid) || differs("resourceVersion", &read.version.to_string()) {
            return Err(ApiError::conflict(
                self.resource.plural,
                name,
                "Precondition failed",
            ));
        }
        if !self.dry() && options["dryRun"].as_array().is_none_or(Vec::is_empty) {
            self.remove(&read)?;
        }
        Ok(status::success(self.resource.plural, name, &read.uid))
    }

    /// Removes an object that was read before.
    pub(super) fn remove(&self, read: &Object) -> Result<(), ApiError> {
        remove(self.store, self.resource, read)?;
        if self.resource.plural == "namespaces" {
            for resource in resources::RESOURCES
                .iter()
                .filter(|resource| resource.namespaced)
            {
                for object in self.store.snapshot(resource, Some(&read.name)).objects {
                    // Somebody else may have been faster.
                    let _ = remove(self.store, resource, &object);
                }
            }
        }
        Ok(())
    }
}

fn remove(store: &Store, resource: &'static Resource, read: &Object) -> Result<(), ApiError> {
    store
        .delete(resource, &read.namespace, &read.name, |last, version| {
            let mut value = last.value();
            value["metadata"]["resourceVersion"] = json!(version.to_string());
            Object::encode(&resource.api_version(), resource.kind, value, last.created)
        })
        .map(|_| ())
}

/// What the service account controller does for a new namespace.
fn default_account(store: &Store, namespace: &str) {
    let (Some(accounts), query) = (resources::by_plural("serviceaccounts"), Query::default())
    else {
        return;
    };
    let target = Target {
        namespace: Some(namespace.to_owned()),
        ..Target::default()
    };
    let write = Write {
        store,
        resource: accounts,
        target: &target,
        query: &query,
    };
    // Only fails if it exists, which is as good.
    let _ = write.create(br#"{"metadata":{"name":"default"}}"#);
}

fn has_generation(resource: &Resource) -> bool {
    matches!(resource.group, "apps" | "batch" | "networking.k8s.io")
}

/// Five characters that spell no words, as Kubernetes' name generator.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .filter_map(|_| LETTERS.get(fastrand::usize(..LETTERS.len())))
        .map(|&letter| char::from(letter))
        .collect()
}
