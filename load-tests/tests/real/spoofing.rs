//! Nobody becomes somebody else by what they write into a request.

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use load_tests::control_plane::{ApiClient, Auth, Credentials, TokenOptions, Who};
use serde_json::Value;

use crate::support::{
    HOUR, Plane, Proxy, RawAnswer, WHOAMI, plane, username, verdict, verdict_of, whoami,
    whoami_body,
};

/// What only administrators read.
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// Header lines that claim an identity or play with how headers are read.
const CLAIMS: [&str; 30] = [
    "X-Remote-User: root\r\nX-Remote-Group: system:masters",
    "x-remote-user: root\r\nx-remote-group: system:masters",
    "X-REMOTE-USER: root\r\nX-REMOTE-GROUP: system:masters",
    "X_Remote_User: root\r\nX_Remote_Group: system:masters",
    "X-Remote_User: root\r\nX_Remote-Group: system:masters",
    "x_remote_user: root\r\nx_remote_group: system:masters",
    "X-Remote-Group: system:masters",
    "X-Remote-Group: system:masters\r\nX-Remote-Group: system:masters",
    "X-Remote-Uid: 0",
    "X-Remote-Extra-Scopes: everything",
    "X_Remote_Extra_Scopes: everything",
    "X-Remote-Extra-authentication.kubernetes.io%2Fnode-name: worker-1",
    "X-Remote-User:root",
    "X-Remote-User:\troot",
    "X-Remote-User: ",
    "X-Remote-User : root\r\nX-Remote-Group : system:masters",
    " X-Remote-User: root",
    "Accept: a\r\n X-Remote-User: root\r\n X-Remote-Group: system:masters",
    "X-Remote-User\0: root",
    "X-Remote-User: root\0",
    "A: b\nX-Remote-User: root\nX-Remote-Group: system:masters",
    "A: b\rX-Remote-User: root",
    "Connection: X-Remote-User\r\nX-Remote-User: root\r\nX-Remote-Group: system:masters",
    "Connection: keep-alive, x-remote-group\r\nX-Remote-Group: system:masters",
    "Connection: Authorization",
    "Connection: close, authorization",
    "Connection: Impersonate-User",
    "Connection: X-Forwarded-For\r\nX-Forwarded-For: 198.51.100.6",
    "x-kubernetes-peer-proxied: true\r\nX-Remote-User: root",
    "X-Remote-User: root\r\nConnection: x-hop\r\nX-Hop: 1",
];

struct Caller {
    what: &'static str,
    credentials: Option<Credentials>,
    token: Option<String>,
}

impl Caller {
    fn authorization(&self) -> String {
        let line = |token| format!("Authorization: Bearer {token}\r\n");
        self.token.as_ref().map(line).unwrap_or_default()
    }

    fn client(&self, proxy: &Proxy) -> Result<ApiClient> {
        let auth = match (&self.credentials, &self.token) {
            (Some(credentials), _) => Auth::Certificate(credentials.clone()),
            (None, Some(token)) => Auth::Token(token.clone()),
            (None, None) => Auth::Anonymous,
        };
        Ok(proxy.client(auth)?)
    }
}

async fn callers(plane: &Plane) -> Result<[Caller; 3]> {
    let jane = plane.client_certificate("jane", &["dev"], HOUR)?;
    let token = plane
        .service_account_token("telemetry", "agent", &TokenOptions::default())
        .await?;
    Ok([
        Caller {
            what: "nobody",
            credentials: None,
            token: None,
        },
        Caller {
            what: "a service account",
            credentials: None,
            token: Some(token),
        },
        Caller {
            what: "a user with a certificate",
            credentials: Some(jane),
            token: None,
        },
    ])
}

fn whoami_request(caller: &Caller, lines: &str) -> String {
    let body = whoami_body().to_string();
    format!(
        "POST {WHOAMI} HTTP/1.1\r\nHost: kubernetes\r\n{}{lines}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        caller.authorization(),
        body.len()
    )
}

fn is_refused_or_unchanged(answer: Option<&RawAnswer>, own: &Value) -> bool {
    answer.is_none_or(|answer| {
        answer.status == 400 || verdict_of(answer.status, &answer.json()) == *own
    })
}

#[tokio::test]
async fn claims_in_http1_headers_gain_nothing() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    for caller in callers(&plane).await? {
        let own = whoami(&caller.client(&proxy)?).await?;
        for claim in CLAIMS {
            let mut connection = proxy.raw(caller.credentials.as_ref()).await?;
            let request = whoami_request(&caller, claim);
            connection.send(request.as_bytes()).await?;
            let answer = connection.answer().await?;
            assert!(
                is_refused_or_unchanged(answer.as_ref(), &own),
                "{} with {claim:?}: {answer:?}",
                caller.what
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn naming_an_identity_header_in_connection_is_a_bad_request() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let admin = plane.client_certificate("root", &["system:masters"], HOUR)?;
    for option in [
        "X-Remote-User",
        "x-remote-extra-scopes",
        "Impersonate-User",
        "impersonate-group, close",
        "Authorization",
        "X_Forwarded_For",
        "X-Real-Ip",
    ] {
        let mut connection = proxy.raw(Some(&admin)).await?;
        let request = format!(
            "GET {SECRETS} HTTP/1.1\r\nHost: kubernetes\r\n\
             Connection: {option}\r\nImpersonate-User: jane\r\n\r\n"
        );
        let answer = connection.ask(&request).await?;
        assert_eq!(answer.status, 400, "{option}: {answer:?}");
        assert_eq!(answer.json()["kind"], "Status", "{option}");
    }
    Ok(())
}

#[tokio::test]
async fn claims_in_http2_headers_gain_nothing() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let claims: [&[(&str, &str)]; 7] = [
        &[
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
        ],
        &[
            ("x_remote_user", "root"),
            ("x_remote_group", "system:masters"),
        ],
        &[
            ("x-remote_user", "root"),
            ("x_remote-group", "system:masters"),
        ],
        &[
            ("x-remote-group", "system:masters"),
            ("x-remote-group", "a"),
        ],
        &[("x-remote-uid", "0"), ("x_remote_uid", "0")],
        &[
            ("x-remote-extra-scopes", "all"),
            ("x_remote_extra_scopes", "all"),
        ],
        &[
            ("x-kubernetes-peer-proxied", "true"),
            ("x-remote-user", "root"),
        ],
    ];
    for caller in callers(&plane).await? {
        let client = caller.client(&proxy)?;
        let own = whoami(&client).await?;
        for claim in claims {
            let mut request = Request::post(WHOAMI).header("content-type", "application/json");
            for (name, value) in claim {
                request = request.header(*name, *value);
            }
            let request = request.body(Bytes::from(whoami_body().to_string()))?;
            let answer = client.request(request).await?;
            assert!(
                answer.status == 400 || verdict(&answer) == own,
                "{} with {claim:?}: {answer:?}",
                caller.what
            );
        }
    }
    Ok(())
}

/// The proxy's own way to assert an identity is no way in for others.
#[tokio::test]
async fn the_front_proxy_certificate_asserts_nothing_at_the_front() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let read = |name: &str| std::fs::read_to_string(plane.pki_dir().join(name));
    let front_proxy = Credentials {
        cert_pem: read("front-proxy-client.crt")?,
        key_pem: read("front-proxy-client.key")?,
    };
    let caller = Caller {
        what: "the front proxy",
        credentials: Some(front_proxy),
        token: None,
    };
    let claim = "X-Remote-User: root\r\nX-Remote-Group: system:masters";
    let mut connection = proxy.raw(caller.credentials.as_ref()).await?;
    let answer = connection.ask(&whoami_request(&caller, claim)).await?;
    assert_eq!(answer.status, 401, "{answer:?}");
    Ok(())
}

/// Requests whose end is read differently by different readers, with another
/// request in the part in doubt.
#[tokio::test]
async fn a_request_hidden_in_another_stays_its_senders_own() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let hidden = format!(
        "GET {SECRETS} HTTP/1.1\r\nHost: kubernetes\r\nX-Remote-User: root\r\n\
         X-Remote-Group: system:masters\r\n\r\n"
    );
    let length = hidden.len();
    let chunked = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let framings = [
        format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("Content-Length: {length}, 0\r\n\r\n{hidden}"),
        format!("Content-Length: +0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0;\nx\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{chunked}"),
        format!("Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\n\r\n{hidden}"),
    ];
    for caller in callers(&plane).await? {
        for framing in &framings {
            let mut connection = proxy.raw(caller.credentials.as_ref()).await?;
            let request = format!(
                "POST {SECRETS} HTTP/1.1\r\nHost: kubernetes\r\n{}{framing}",
                caller.authorization()
            );
            // What answers may close before it has read all.
            let _ = connection.send(request.as_bytes()).await;
            let answers = connection.finish().await?;
            let answers = String::from_utf8_lossy(&answers);
            assert!(
                !answers.contains("SecretList") && !answers.contains(" 200 OK"),
                "{} with {framing:?}: {answers}",
                caller.what
            );
        }
    }
    Ok(())
}

fn impersonate(user: &str) -> Result<Request<Bytes>> {
    Ok(Request::post(WHOAMI)
        .header("content-type", "application/json")
        .header("impersonate-user", user)
        .header("impersonate-group", "team-a")
        .header("impersonate-extra-scopes", "view")
        .body(Bytes::from(whoami_body().to_string()))?)
}

#[tokio::test]
async fn impersonation_is_for_the_server_to_allow() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    for caller in callers(&plane).await? {
        let answer = caller.client(&proxy)?.request(impersonate("bob")?).await?;
        assert_eq!(answer.status, 403, "{}: {answer:?}", caller.what);
        let message = answer.json()["message"].to_string();
        assert!(message.contains("cannot impersonate"), "{message}");
    }
    let straight = plane.client(Who::SuperAdmin)?;
    let through = proxy.client_as(&plane, Who::SuperAdmin)?;
    let expected = verdict(&straight.request(impersonate("bob")?).await?);
    assert_eq!(username(&expected), "bob");
    assert_eq!(
        verdict(&through.request(impersonate("bob")?).await?),
        expected
    );
    // A group without a user is a mistake.
    let group_only = || {
        Request::post(WHOAMI)
            .header("content-type", "application/json")
            .header("impersonate-group", "system:masters")
            .body(Bytes::from(whoami_body().to_string()))
    };
    let expected = straight.request(group_only()?).await?;
    let answer = through.request(group_only()?).await?;
    assert_eq!(answer.status, expected.status);
    assert!(answer.status >= 400, "{answer:?}");
    Ok(())
}
