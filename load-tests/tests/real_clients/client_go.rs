//! client-go and controller-runtime: the program in `load-tests/clients/go`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use config::{Config, Mode};
use load_tests::control_plane::{
    Auth, GoProgram, SeedKind, SeedPlan, Subject, TokenOptions, Who, seed,
};
use serde_json::Value;

use crate::harness::{Cluster, Identity, Ran, go_program, run};

fn command_line(kubeconfig: &Path, namespace: &str, arguments: &[&str]) -> Vec<String> {
    let kubeconfig = kubeconfig.display().to_string();
    let place = ["--kubeconfig", &kubeconfig, "--namespace", namespace];
    let words = place.iter().chain(arguments);
    words.map(|&word| word.to_owned()).collect()
}

/// Runs a subcommand both ways; what it said, line by line.
async fn same(identity: Identity, arguments: &[&str]) -> Result<Option<Vec<Value>>> {
    let Some(program) = go_program(GoProgram::Clients) else {
        return Ok(None);
    };
    let Some(cluster) = Cluster::start()? else {
        return Ok(None);
    };
    let said = cluster
        .same(&program, identity, |kubeconfig, namespace| {
            command_line(kubeconfig, namespace, arguments)
        })
        .await
        .with_context(|| format!("{identity:?}: {arguments:?}"))?;
    Ok(Some(lines(&said)?))
}

fn lines(said: &str) -> Result<Vec<Value>> {
    said.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

#[tokio::test]
async fn informers_that_stream_their_start_end_with_what_a_list_says() -> Result<()> {
    let arguments = ["--watch-list=true", "--encoding=json", "informers"];
    let Some(said) = same(Identity::Certificate, &arguments).await? else {
        return Ok(());
    };
    let last = said.last().context("nothing said")?;
    assert_eq!(last["lists"], 0, "{last}");
    assert_eq!(last["streamed"], 6, "{last}");
    Ok(())
}

#[tokio::test]
async fn informers_that_list_and_watch_end_with_what_a_list_says() -> Result<()> {
    let arguments = ["--watch-list=false", "--encoding=json", "informers"];
    let Some(said) = same(Identity::Token, &arguments).await? else {
        return Ok(());
    };
    let last = said.last().context("nothing said")?;
    assert_eq!(last["lists"], 6, "{last}");
    assert_eq!(last["streamed"], 0, "{last}");
    Ok(())
}

#[tokio::test]
async fn informers_that_speak_protobuf_end_with_what_a_list_says() -> Result<()> {
    for (identity, watch_list) in [
        (Identity::Token, "--watch-list=true"),
        (Identity::Certificate, "--watch-list=false"),
    ] {
        let arguments = [watch_list, "--encoding=protobuf", "informers"];
        let Some(said) = same(identity, &arguments).await? else {
            return Ok(());
        };
        let types = said.last().context("nothing said")?["types"].to_string();
        assert!(types.contains("protobuf;stream=watch"), "{types}");
        assert!(!types.contains("json"), "{types}");
    }
    Ok(())
}

#[tokio::test]
async fn watches_that_break_go_on_without_a_list_and_without_a_gap() -> Result<()> {
    for (identity, watch_list) in [
        (Identity::Certificate, "--watch-list=true"),
        (Identity::Token, "--watch-list=false"),
    ] {
        let Some(said) = same(identity, &[watch_list, "resume"]).await? else {
            return Ok(());
        };
        let first = said.first().context("nothing said")?;
        assert_eq!(first["resumed"], true, "{first}");
        assert_eq!(first["moreLists"], 0, "{first}");
        assert_eq!(first["cutsLeft"], 0, "{first}");
        let last = said.last().context("nothing said")?;
        assert_eq!(last["tooLarge"], true, "{last}");
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_changes_hands_when_given_up_and_when_lost() -> Result<()> {
    let (certificate, token) = tokio::try_join!(
        same(Identity::Certificate, &["election"]),
        same(Identity::Token, &["--encoding=protobuf", "election"]),
    )?;
    for said in [certificate, token].into_iter().flatten() {
        let holders: Vec<_> = said.iter().map(|line| &line["holder"]).collect();
        assert_eq!(holders, ["first", "second", "third"]);
    }
    Ok(())
}

#[tokio::test]
async fn the_dynamic_client_uses_a_resource_nobody_knew() -> Result<()> {
    for identity in [Identity::Certificate, Identity::Token] {
        let Some(said) = same(identity, &["dynamic"]).await? else {
            return Ok(());
        };
        assert_eq!(
            said.first().context("nothing")?["pages"].to_string(),
            "[4,4,4,2]"
        );
    }
    Ok(())
}

#[tokio::test]
async fn discovery_finds_the_same_resources() -> Result<()> {
    for (identity, encoding) in [
        (Identity::Certificate, "--encoding=json"),
        (Identity::Token, "--encoding=protobuf"),
    ] {
        let Some(said) = same(identity, &[encoding, "discovery"]).await? else {
            return Ok(());
        };
        let aggregated = said[1]["resources"].as_array().context("no resources")?;
        assert!(aggregated.len() > 100, "{}", aggregated.len());
    }
    Ok(())
}

#[tokio::test]
async fn two_managers_apply_their_parts_of_one_object() -> Result<()> {
    let Some(said) = same(Identity::Token, &["apply"]).await? else {
        return Ok(());
    };
    assert_eq!(said[2]["reason"], "Conflict", "{said:?}");
    assert_eq!(said[4]["replicas"], 3, "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_controller_reconciles_what_it_is_asked_for() -> Result<()> {
    for identity in [Identity::Certificate, Identity::Token] {
        if same(identity, &["reconciler"]).await?.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// A proxy that allows next to nothing.
fn next_to_nothing(config: &mut Config) {
    let admission = &mut config.admission;
    admission.mode = Mode::Enforce;
    admission.limit.initial = Duration::from_millis(2);
    admission.limit.min = Duration::from_millis(1);
    admission.limit.max = Duration::from_millis(2);
    admission.queue.long_deadline = admission.queue.short_deadline;
    admission.queue.max_waiting = 1;
}

/// How often a subcommand that is to be refused something is tried.
const RUNS: usize = 5;

/// Runs a subcommand as an agent that reads everything, through a proxy that
/// refuses most of it, until something was refused.
async fn refused(arguments: &[&str]) -> Result<Option<Value>> {
    let Some(program) = go_program(GoProgram::Clients) else {
        return Ok(None);
    };
    let Some(cluster) = Cluster::start_with(next_to_nothing)? else {
        return Ok(None);
    };
    let plane = &cluster.plane;
    let plan = SeedPlan {
        kind: SeedKind::ConfigMaps,
        namespaces: 2,
        count: 300,
        bytes_each: 3000,
        concurrency: 16,
    };
    seed(&plane.client(Who::SuperAdmin)?, plan, |_| ()).await?;
    let kubeconfig = agent(&cluster).await?;
    let namespace = cluster.namespace().await?;
    let arguments = command_line(&kubeconfig, &namespace, arguments);
    // How much comes at once is up to a busy machine; nearly always the first run
    // is refused something.
    let mut fared = Value::Null;
    for _ in 0..RUNS {
        let Ran {
            success,
            stdout,
            stderr,
        } = run(&program, &arguments).await?;
        ensure!(success, "{stdout}{stderr}");
        fared = serde_json::from_str(&stdout)?;
        if fared["refused"].as_u64() > Some(0) {
            break;
        }
    }
    ensure!(fared["refused"].as_u64() > Some(0), "{RUNS} times: {fared}");
    let metrics = cluster.proxy.metrics().await?;
    let shed = metrics.sum("spillway_shed_total", &[]);
    let counted = fared["refused"].as_f64().unwrap_or_default();
    ensure!(
        shed >= counted,
        "refused {counted}, of which by the proxy {shed}"
    );
    Ok(Some(fared))
}

/// The kubeconfig of a service account that may read and is nobody special: an
/// administrator's work would be refused last.
async fn agent(cluster: &Cluster) -> Result<PathBuf> {
    let plane = &cluster.plane;
    let (namespace, name) = ("telemetry", "agent");
    let options = TokenOptions::default();
    let token = plane
        .service_account_token(namespace, name, &options)
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    plane.bind_cluster_role(&subject, "view").await?;
    cluster.through(Auth::Token(token)).await
}

#[tokio::test]
async fn calls_that_are_refused_come_back_when_told_and_are_all_served() -> Result<()> {
    let Some(fared) = refused(&["refused"]).await? else {
        return Ok(());
    };
    assert_eq!(fared["early"], 0, "{fared}");
    assert_eq!(fared["served"], 40, "{fared}");
    Ok(())
}

#[tokio::test]
async fn informers_that_are_refused_keep_to_streaming_and_sync() -> Result<()> {
    let Some(fared) = refused(&["--watch-list=true", "herd"]).await? else {
        return Ok(());
    };
    assert_eq!(fared["early"], 0, "{fared}");
    assert_eq!(fared["lists"], 0, "{fared}");
    Ok(())
}
