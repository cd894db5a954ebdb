//! Whoever calls is the same user through the proxy as without it.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use load_tests::control_plane::{
    ApiClient, Auth, BoundPod, Credentials, Kubeconfig, TokenOptions, Who, write_kubeconfig,
};
use serde_json::{Value, json};

use crate::support::{
    AUDITED_NAMESPACE, Authority, CLIENT, HOUR, Kubectl, NOBODY, Plane, Proxy, Raw, TestDir,
    WHOAMI, plane, unique, until, username, verdict, whoami, whoami_body,
};

/// A token as a pod on a node holds one.
async fn bound_token(plane: &Plane) -> Result<String> {
    let options = TokenOptions {
        pod: Some(BoundPod {
            name: "agent-x7".to_owned(),
            node: Some("worker-7".to_owned()),
        }),
        ..TokenOptions::default()
    };
    let token = plane.service_account_token("telemetry", "agent", &options);
    Ok(token.await?)
}

async fn both(plane: &Plane, proxy: &Proxy, auth: &Auth) -> Result<(Value, Value)> {
    let straight = whoami(&plane.client_with(auth.clone())?).await?;
    let through = whoami(&proxy.client(auth.clone())?).await?;
    Ok((straight, through))
}

#[tokio::test]
async fn certificates_are_the_users_they_are_without_the_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    for who in [
        Who::Admin,
        Who::SuperAdmin,
        Who::ControllerManager,
        Who::Scheduler,
    ] {
        let auth = Kubeconfig::read(&plane.kubeconfig(who))?.auth;
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert!(!username(&straight).is_empty(), "{straight}");
        assert_eq!(straight, through, "{who:?}");
    }
    let made_up: [(&str, &[&str]); 7] = [
        ("jane", &["team-a", "team-b", "example.org:on call"]),
        ("system:node:worker-7", &["system:nodes"]),
        ("nobody's friend", &[]),
        ("jürgen@example.org", &["größe", "日本"]),
        ("100%sure", &["a,b", "\"quoted\"", "x=y;z"]),
        ("system:anonymous", &["system:unauthenticated"]),
        ("twice", &["dev", "dev"]),
    ];
    for (name, groups) in made_up {
        let auth = Auth::Certificate(plane.client_certificate(name, groups, HOUR)?);
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert_eq!(straight, through, "{name} in {groups:?}");
    }
    Ok(())
}

/// Headers lose the spaces around their values on the way, names in
/// certificates do not: a user must not become another by that.
#[tokio::test]
async fn names_that_headers_cannot_carry_become_nobody_else() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let odd: [(&str, &[&str]); 6] = [
        ("kubernetes-admin ", &[]),
        (" kubernetes-admin", &[]),
        ("jane", &["system:masters "]),
        ("jane", &[" system:masters"]),
        ("jane", &["system:masters\t"]),
        ("jane\r\nX-Remote-Group: system:masters", &[]),
    ];
    let mut became_another = Vec::new();
    for (name, groups) in odd {
        let credentials = plane.client_certificate(name, groups, HOUR)?;
        let auth = Auth::Certificate(credentials.clone());
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert_eq!(straight["username"], name);
        if through != straight && through["status"] != 401 {
            became_another.push(format!("{name:?} in {groups:?}: {through}"));
        }
        // An upgrade goes over HTTP/1.1, which treats spaces its own way.
        let request = "POST /api/v1/namespaces/default/pods/missing/exec?command=id HTTP/1.1\r\n\
                       Host: kubernetes\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                       X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n";
        let mut straight = Raw::straight(&plane, Some(&credentials)).await?;
        let expected = straight.ask(request).await?;
        assert_eq!(expected.status, 403, "{name:?} in {groups:?}");
        let mut through = proxy.raw(Some(&credentials)).await?;
        let answer = through.ask(request).await?;
        if answer.status != 401 && answer.json() != expected.json() {
            let (status, body) = (answer.status, answer.json());
            became_another.push(format!(
                "{name:?} in {groups:?}, over HTTP/1.1: {status}, {}",
                body["message"]
            ));
        }
    }
    assert!(became_another.is_empty(), "{became_another:#?}");
    Ok(())
}

#[tokio::test]
async fn tokens_are_the_users_they_are_without_the_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let bound = bound_token(&plane).await?;
    let (straight, through) = both(&plane, &proxy, &Auth::Token(bound)).await?;
    let extra = &through["extra"];
    for (name, value) in [("pod-name", "agent-x7"), ("node-name", "worker-7")] {
        assert_eq!(
            extra[format!("authentication.kubernetes.io/{name}")][0],
            value
        );
    }
    let id = &extra["authentication.kubernetes.io/credential-id"][0];
    assert!(id.as_str().unwrap_or_default().starts_with("JTI="), "{id}");
    assert_eq!(straight, through);

    // A token the proxy cannot judge by itself.
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": "bootstrap-token-abcdef", "namespace": "kube-system" },
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
        },
    });
    let admin = plane.client(Who::SuperAdmin)?;
    let created = admin.post("/api/v1/namespaces/kube-system/secrets", &secret);
    created
        .await?
        .accept("creating a bootstrap token", &[409])?;
    let auth = Auth::Token("abcdef.0123456789abcdef".to_owned());
    let client = plane.client_with(auth.clone())?;
    until("the server knows the bootstrap token", async || {
        let user = whoami(&client).await.ok()?;
        (username(&user) == "system:bootstrap:abcdef").then_some(())
    })
    .await;
    // Twice: the first time the proxy does not know yet that it works.
    for _ in 0..2 {
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert_eq!(straight, through);
    }
    Ok(())
}

#[tokio::test]
async fn those_who_prove_nothing_get_the_servers_own_refusal() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let foreign = Authority::new("kubernetes")?.client("jane", "system:masters")?;
    let other_audience = TokenOptions {
        audiences: vec!["vault".to_owned()],
        ..TokenOptions::default()
    };
    let other_audience = plane
        .service_account_token("telemetry", "agent", &other_audience)
        .await?;
    let mut forged = bound_token(&plane).await?;
    forged.truncate(forged.len() - 8);
    forged.push_str("AAAAAAAA");
    for (what, auth, status) in [
        ("nobody", Auth::Anonymous, 403),
        (
            "a foreign certificate",
            Auth::Certificate(foreign.clone()),
            401,
        ),
        ("garbage", Auth::Token("garbage".to_owned()), 401),
        ("a forged token", Auth::Token(forged), 401),
        (
            "a token for another audience",
            Auth::Token(other_audience),
            401,
        ),
    ] {
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert_eq!(straight["status"], status, "{what}: {straight}");
        assert_eq!(straight, through, "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_ends_on_its_day_also_on_an_open_connection() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let short = plane.client_certificate("late", &[], Duration::from_secs(2))?;
    let auth = Auth::Certificate(short);
    let open = proxy.client(auth.clone())?;
    let before = whoami(&open).await?;
    assert_eq!(username(&before), "late");
    until("the certificate has ended", async || {
        let refused = whoami(&open).await.ok()?;
        (refused["status"] == 401).then_some(())
    })
    .await;
    let (straight, through) = both(&plane, &proxy, &auth).await?;
    assert_eq!(straight["status"], 401);
    assert_eq!(straight, through);
    Ok(())
}

/// `SelfSubjectReview` with an `Authorization` header of one's own.
async fn whoami_with(client: &ApiClient, authorization: &str) -> Result<Value> {
    let request = Request::post(WHOAMI)
        .header("content-type", "application/json")
        .header("authorization", authorization)
        .body(Bytes::from(whoami_body().to_string()))?;
    Ok(verdict(&client.request(request).await?))
}

#[tokio::test]
async fn the_authorization_header_counts_as_without_the_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let token = bound_token(&plane).await?;
    let good = Auth::Certificate(plane.client_certificate("jane", &["dev"], HOUR)?);
    let foreign = Authority::new("elsewhere")?.client("jane", "system:masters")?;
    let foreign = Auth::Certificate(foreign);
    let agent = "system:serviceaccount:telemetry:agent";
    let cases = [
        (&foreign, format!("Bearer {token}"), Some(agent)),
        (&foreign, "Bearer garbage".to_owned(), None),
        (&foreign, "Basic amFuZTpzZWNyZXQ=".to_owned(), None),
        (&good, format!("Bearer {token}"), Some("jane")),
        (&good, "Bearer garbage".to_owned(), Some("jane")),
        (&Auth::Anonymous, "Basic amFuZTpzZWNyZXQ=".to_owned(), None),
        (&Auth::Anonymous, format!("bearer {token}"), Some(agent)),
        (
            &Auth::Anonymous,
            format!("BEARER {token} more"),
            Some(agent),
        ),
        (&Auth::Anonymous, format!("Bearer  {token}"), None),
        (&Auth::Anonymous, format!("Bearer\t{token}"), None),
        (&Auth::Anonymous, "Bearer".to_owned(), None),
        (&Auth::Anonymous, "Bearer ".to_owned(), None),
        (&Auth::Anonymous, token.clone(), None),
    ];
    for (number, (auth, header, user)) in cases.iter().enumerate() {
        let straight = whoami_with(&plane.client_with((*auth).clone())?, header).await?;
        let through = whoami_with(&proxy.client((*auth).clone())?, header).await?;
        assert_eq!(straight, through, "case {number}");
        assert_eq!(username(&straight), user.unwrap_or(""), "case {number}");
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_auth_whoami_shows_the_same() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let proxy = Proxy::before(&plane)?;
    let dir = TestDir::new()?;
    let jane = plane.client_certificate("jane", &["team-a", "team-b"], HOUR)?;
    for auth in [
        Auth::Certificate(jane),
        Auth::Token(bound_token(&plane).await?),
        Auth::Anonymous,
    ] {
        let number = unique();
        let straight = dir.path().join(format!("straight-{number}"));
        write_kubeconfig(
            &straight,
            plane.server(),
            Some("kubernetes"),
            &plane.ca_pem()?,
            &auth,
        )?;
        let through = dir.path().join(format!("through-{number}"));
        proxy.kubeconfig(&through, &auth)?;
        let mut said = Vec::new();
        for kubeconfig in [straight, through] {
            let mut arguments = vec!["auth", "whoami", "-o", "yaml"];
            if auth == Auth::Anonymous {
                arguments.extend(NOBODY);
            }
            let mut ran = kubectl.run(&kubeconfig, &arguments, "").await?;
            ran.stdout = ran
                .stdout
                .lines()
                .filter(|line| !line.contains("creationTimestamp:"))
                .collect::<Vec<_>>()
                .join("\n");
            said.push(ran);
        }
        assert_eq!(said[0], said[1], "{auth:?}");
        if auth == Auth::Anonymous {
            assert_eq!(said[1].code, Some(1), "{:?}", said[1]);
            assert!(said[1].stderr.contains("permission"), "{:?}", said[1]);
        } else {
            assert_eq!(said[1].code, Some(0), "{:?}", said[1]);
            assert!(said[1].stdout.contains("credential-id"), "{:?}", said[1]);
        }
    }
    Ok(())
}

/// Asks for an object nobody has, so that the request is in the audit log, and
/// claims to be somewhere else.
async fn leave_a_trace(mut connection: Raw, token: Option<&str>) -> Result<String> {
    let path = format!(
        "/api/v1/namespaces/{AUDITED_NAMESPACE}/configmaps/trace-{}",
        unique()
    );
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: kubernetes\r\n{}\
         X-Forwarded-For: 198.51.100.6\r\nX-Real-Ip: 198.51.100.7\r\n\
         Forwarded: for=198.51.100.8\r\nX_Forwarded_For: 198.51.100.9\r\n\r\n",
        authorization.unwrap_or_default()
    );
    connection.ask(&request).await?;
    Ok(path)
}

#[tokio::test]
async fn the_audit_log_shows_who_it_was_and_from_where() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let jane: Credentials = plane.client_certificate("jane", &["team-a", "team-b"], HOUR)?;
    let token = bound_token(&plane).await?;
    for (credentials, token) in [(Some(&jane), None), (None, Some(token.as_str()))] {
        let straight = Raw::straight(&plane, credentials).await?;
        let straight = leave_a_trace(straight, token).await?;
        let through = leave_a_trace(proxy.raw(credentials).await?, token).await?;
        let straight = until("an audit event", async || plane.audited(&straight)).await;
        let through = until("an audit event", async || plane.audited(&through)).await;
        assert!(straight["user"]["extra"].is_object(), "{straight}");
        assert_eq!(straight["user"], through["user"]);
        assert_eq!(straight["verb"], through["verb"]);
        // Straight the server believes what the client says; the proxy knows.
        let addresses = through["sourceIPs"].clone();
        assert_eq!(addresses[0], CLIENT.to_string(), "{addresses}");
        assert!(!addresses.to_string().contains("198.51.100"), "{addresses}");
    }
    Ok(())
}
