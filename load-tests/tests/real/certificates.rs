//! What a client certificate may hold, and when it stops counting: as without the proxy.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use load_tests::control_plane::{Auth, ControlPlane, Credentials, TokenOptions};
use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa,
};
use serde_json::Value;

use crate::support::{
    Authority, HOUR, Proxy, cluster_authority, own_plane, params, plane, replace, until, username,
    whoami,
};

async fn both(plane: &ControlPlane, proxy: &Proxy, auth: &Auth) -> Result<(Value, Value)> {
    let straight = whoami(&plane.client_with(auth.clone())?).await?;
    let through = whoami(&proxy.client(auth.clone())?).await?;
    Ok((straight, through))
}

fn uid() -> DnType {
    DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2])
}

/// For a client of this subject.
fn client(subject: Vec<(DnType, DnValue)>) -> CertificateParams {
    let mut params = params("", HOUR);
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind, value);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn utf8(text: &str) -> DnValue {
    DnValue::Utf8String(text.to_owned())
}

#[tokio::test]
async fn every_kind_of_subject_is_the_user_it_is_without_the_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let authority = cluster_authority(&plane)?;
    let cn = DnType::CommonName;
    let o = DnType::OrganizationName;
    let o_again = DnType::CustomDnType(vec![2, 5, 4, 10]);
    type Case = (&'static str, Vec<(DnType, DnValue)>, bool);
    let subjects: Vec<Case> = vec![
        (
            "a uid",
            vec![(cn.clone(), utf8("jane")), (uid(), utf8("u-1"))],
            true,
        ),
        (
            "an empty uid",
            vec![(cn.clone(), utf8("jane")), (uid(), utf8(""))],
            false,
        ),
        ("no name", vec![(o.clone(), utf8("system:masters"))], false),
        (
            "an empty name",
            vec![(cn.clone(), utf8("")), (o.clone(), utf8("dev"))],
            false,
        ),
        ("no name and an empty uid", vec![(uid(), utf8(""))], false),
        (
            "two groups",
            vec![
                (cn.clone(), utf8("jane")),
                (o.clone(), utf8("a")),
                (o_again, utf8("b")),
            ],
            true,
        ),
        (
            "a unit and a place",
            vec![
                (cn.clone(), utf8("jane")),
                (DnType::OrganizationalUnitName, utf8("unit")),
                (DnType::LocalityName, utf8("place")),
            ],
            true,
        ),
        (
            "printable strings",
            vec![
                (
                    cn.clone(),
                    DnValue::PrintableString(PrintableString::try_from("jane")?),
                ),
                (
                    o.clone(),
                    DnValue::PrintableString(PrintableString::try_from("dev")?),
                ),
            ],
            true,
        ),
        (
            "an IA5 string",
            vec![(
                cn.clone(),
                DnValue::Ia5String(Ia5String::try_from("jane@example.org")?),
            )],
            true,
        ),
        (
            "a teletex string",
            vec![(
                cn.clone(),
                DnValue::TeletexString(TeletexString::try_from("jane")?),
            )],
            true,
        ),
        (
            "a BMP string",
            vec![
                (
                    cn.clone(),
                    DnValue::BmpString(BmpString::try_from("jürgen")?),
                ),
                (o, DnValue::BmpString(BmpString::try_from("größe")?)),
            ],
            true,
        ),
    ];
    for (what, subject, somebody) in subjects {
        let auth = Auth::Certificate(authority.sign(&client(subject))?);
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert_eq!(
            !username(&straight).is_empty(),
            somebody,
            "{what}: {straight}"
        );
        if what == "a uid" {
            // The server reads X-Remote-Uid only when it is told to; here it is not.
            assert_eq!(straight["uid"], "u-1");
            assert_eq!(through["username"], straight["username"]);
            assert_eq!(through["extra"], straight["extra"]);
        } else {
            assert_eq!(straight, through, "{what}");
        }
    }
    Ok(())
}

/// Headers cannot carry it, and the server's own front-proxy authenticator drops it: nothing is granted to it anywhere.
#[tokio::test]
async fn an_empty_group_is_all_that_is_lost() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let auth = Auth::Certificate(plane.client_certificate("jane", &["a", "", "b"], HOUR)?);
    let (mut straight, through) = both(&plane, &proxy, &auth).await?;
    let groups = straight["groups"].as_array_mut();
    let groups = groups.ok_or_else(|| anyhow::anyhow!("no groups"))?;
    let with_it = groups.len();
    groups.retain(|group| group != "");
    assert_eq!(groups.len() + 1, with_it);
    assert_eq!(straight, through);
    Ok(())
}

#[tokio::test]
async fn a_uid_reaches_a_server_that_is_told_to_read_it() -> Result<()> {
    let options = load_tests::control_plane::Options {
        extra_flags: vec!["--requestheader-uid-headers=X-Remote-Uid".to_owned()],
        key_algorithm: load_tests::control_plane::KeyAlgorithm::EcdsaP256,
        ..load_tests::control_plane::Options::default()
    };
    let Some(plane) = load_tests::control_plane::start_for_tests(options) else {
        return Ok(());
    };
    let proxy = Proxy::with(&plane, |config| {
        config.upstream.request_headers.uid = Some("X-Remote-Uid".to_owned());
    })?;
    let subject = vec![(DnType::CommonName, utf8("jane")), (uid(), utf8("u-1"))];
    let auth = Auth::Certificate(cluster_authority(&plane)?.sign(&client(subject))?);
    let (straight, through) = both(&plane, &proxy, &auth).await?;
    assert_eq!(straight["uid"], "u-1");
    assert_eq!(straight, through);
    Ok(())
}

#[tokio::test]
async fn usages_and_chains_count_as_without_the_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let authority = cluster_authority(&plane)?;
    let named = || client(vec![(DnType::CommonName, utf8("jane"))]);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = named();
        change(&mut params);
        authority.sign(&params)
    };
    let below = authority.intermediate("below")?;
    let through_below = |chain: &[&str]| -> Result<Credentials> {
        let mut credentials = below.sign(&named())?;
        for certificate in chain {
            credentials.cert_pem.push_str(certificate);
        }
        Ok(credentials)
    };
    let elsewhere = Authority::new("kubernetes")?;
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let cases = [
        (
            "for servers only",
            with(&|p| p.extended_key_usages = vec![server.clone()])?,
            false,
        ),
        (
            "for no usage at all",
            with(&|p| p.extended_key_usages = Vec::new())?,
            true,
        ),
        (
            "for both",
            with(&|p| p.extended_key_usages.push(server.clone()))?,
            true,
        ),
        (
            "over an intermediate",
            through_below(&[&below.ca_pem])?,
            true,
        ),
        ("without its intermediate", through_below(&[])?, false),
        (
            "with one of elsewhere",
            through_below(&[&elsewhere.ca_pem])?,
            false,
        ),
        (
            "with more than is needed",
            through_below(&[&elsewhere.ca_pem, &below.ca_pem])?,
            true,
        ),
        (
            "ended",
            with(&|p| p.not_after = (SystemTime::now() - Duration::from_secs(5)).into())?,
            false,
        ),
        (
            "not yet begun",
            with(&|p| p.not_before = (SystemTime::now() + HOUR / 2).into())?,
            false,
        ),
    ];
    let options = TokenOptions::default();
    let token = plane.service_account_token("telemetry", "agent", &options);
    let token = token.await?;
    for (what, credentials, good) in cases {
        let auth = Auth::Certificate(credentials.clone());
        let (straight, through) = both(&plane, &proxy, &auth).await?;
        assert_eq!(username(&straight) == "jane", good, "{what}: {straight}");
        assert_eq!(straight, through, "{what}");
        // With a token beside it: the certificate first, then the token.
        let request = |authorization: &str| {
            format!(
                "GET /api/v1/namespaces/default HTTP/1.1\r\nHost: kubernetes\r\n\
                 Authorization: Bearer {authorization}\r\n\r\n"
            )
        };
        for authorization in [&token, "garbage"] {
            let mut answers = Vec::new();
            for mut connection in [
                crate::support::Raw::straight(&plane, Some(&credentials)).await?,
                proxy.raw(Some(&credentials)).await?,
            ] {
                let answer = connection.ask(&request(authorization)).await?;
                answers.push((answer.status, answer.json()["message"].clone()));
            }
            assert_eq!(answers[0], answers[1], "{what}");
            let user = match (good, authorization == token) {
                (true, _) => "jane",
                (false, true) => "system:serviceaccount:telemetry:agent",
                (false, false) => "Unauthorized",
            };
            assert!(
                answers[0].1.to_string().contains(user),
                "{what}: {answers:?}"
            );
        }
    }
    Ok(())
}

/// The server is asked over and over, and the proxy too: neither may take it longer than the other.
#[tokio::test]
async fn a_certificate_does_not_outlive_its_last_second() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let end = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs()
        + 3;
    let mut short = client(vec![(DnType::CommonName, utf8("late"))]);
    short.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(end)).into();
    let auth = Auth::Certificate(cluster_authority(&plane)?.sign(&short)?);
    let open = proxy.client(auth)?;
    assert_eq!(username(&whoami(&open).await?), "late");
    loop {
        // Asked before it is sent: what is taken later than this was taken too late.
        let sent = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let verdict = whoami(&open).await?;
        if verdict["status"] == 401 {
            return Ok(());
        }
        assert!(
            sent < Duration::from_secs(end),
            "{sent:?}, end {end}: {verdict}"
        );
    }
}

#[tokio::test]
async fn an_authority_counts_while_it_is_listed_and_has_not_ended() -> Result<()> {
    let Some(plane) = own_plane() else {
        return Ok(());
    };
    let proxy = Proxy::before(&plane)?;
    let bundle = plane.pki_dir().join("ca.crt");
    let original = std::fs::read_to_string(&bundle)?;
    let second = Authority::new("second")?;
    // One that ended a minute before its clients' certificates do.
    let ended = Authority::ending("ended", SystemTime::now() - Duration::from_secs(30))?;
    let jane = Auth::Certificate(second.client("jane", "dev")?);
    let eve = Auth::Certificate(ended.client("eve", "dev")?);
    let (straight, through) = both(&plane, &proxy, &jane).await?;
    assert_eq!(
        (straight["status"].as_u64(), &through),
        (Some(401), &straight)
    );

    replace(
        &bundle,
        &format!("{original}{}{}", ended.ca_pem, second.ca_pem),
    )?;
    let (at_server, at_proxy) = (plane.client_with(jane.clone())?, proxy.client(jane)?);
    for client in [&at_server, &at_proxy] {
        until("the second authority is believed", async || {
            (username(&whoami(client).await.ok()?) == "jane").then_some(())
        })
        .await;
    }
    let (straight, through) = both(&plane, &proxy, &eve).await?;
    assert_eq!(
        (straight["status"].as_u64(), &through),
        (Some(401), &straight)
    );

    // Taken out again: these connections stay open, and count for nothing.
    replace(&bundle, &original)?;
    for client in [&at_server, &at_proxy] {
        until("the second authority is gone", async || {
            (whoami(client).await.ok()?["status"] == 401).then_some(())
        })
        .await;
    }
    Ok(())
}

/// An authority's own certificate is nobody's: where the server would take it for a user, the proxy is stricter.
#[tokio::test]
async fn an_authoritys_own_certificate_is_no_client() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let mut below = client(vec![(DnType::CommonName, utf8("jane"))]);
    below.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let auth = Auth::Certificate(cluster_authority(&plane)?.sign(&below)?);
    let (straight, through) = both(&plane, &proxy, &auth).await?;
    assert!(
        through == straight || through["status"] == 401,
        "{straight} {through}"
    );
    Ok(())
}
