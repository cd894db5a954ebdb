//! Clients that do not read their answers.

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use load_tests::control_plane::Who;
use serde_json::json;

use crate::support::{PATIENCE, Proxy, plane, unique};

/// As many as there are streams on a connection of the proxy's.
const UNREAD: usize = 80;

#[tokio::test]
async fn lists_that_nobody_reads_stall_nobody_else() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let admin = plane.client(Who::SuperAdmin)?;
    let namespace = format!("slow-{}", unique());
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace },
    });
    let created = admin.post("/api/v1/namespaces", &object).await?;
    created.accept("creating a namespace", &[])?;
    // Two mebibytes: much more than the windows and buffers on the way hold.
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    for number in 0..20 {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("large-{number}") },
            "data": { "text": "x".repeat(100 << 10) },
        });
        admin
            .post(&collection, &object)
            .await?
            .accept("creating", &[])?;
    }
    // What admission would do about it is another matter.
    let proxy = Proxy::with(&plane, |config| {
        config.admission.mode = config::Mode::Off;
        config.listen.workers = 1;
    })?;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        // Each with a connection of its own, so that it can only block itself.
        let slow = proxy.client_as(&plane, Who::SuperAdmin)?;
        let request = Request::get(&collection)
            .header("accept", "application/json")
            .body(Bytes::new())?;
        let response = slow.open(request).await?;
        assert_eq!(response.status(), 200);
        unread.push((slow, response));
    }
    let other = proxy.client_as(&plane, Who::Admin)?;
    for number in 0..20 {
        let path = format!("{collection}/large-{number}");
        for path in [&path, &collection] {
            let answer = tokio::time::timeout(PATIENCE, other.get(path)).await??;
            assert_eq!(answer.status, 200);
        }
    }
    Ok(())
}
