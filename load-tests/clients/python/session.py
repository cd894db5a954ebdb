"""Uses a cluster as the official Python client does.

    session.py KUBECONFIG NAMESPACE [POD]

Prints one JSON object per line, in a form that does not differ between two runs:
the caller compares a run straight to a server with one through a proxy. With the
name of a running pod it also opens exec sessions, by WebSocket.
"""

import json
import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

TIMEOUT_SECONDS = 60
NAMESPACE = sys.argv[2]


def say(**result):
    print(json.dumps(result, sort_keys=True).replace(NAMESPACE, "NAMESPACE"), flush=True)


def refusal(call):
    """What a call is refused with."""
    try:
        call()
    except ApiException as refused:
        body = json.loads(refused.body)
        return [refused.status, body["reason"], body["message"]]
    return None


def single_objects(core):
    body = {"metadata": {"name": "settings"}, "data": {"colour": "blue"}}
    created = core.create_namespaced_config_map(NAMESPACE, body)
    created.data["colour"] = "green"
    replaced = core.replace_namespaced_config_map("settings", NAMESPACE, created)
    patched = core.patch_namespaced_config_map("settings", NAMESPACE, {"data": {"size": "ä"}})
    say(replaced=replaced.data, patched=patched.data)
    say(conflict=refusal(lambda: core.create_namespaced_config_map(NAMESPACE, body)))
    say(missing=refusal(lambda: core.read_namespaced_config_map("missing", NAMESPACE)))
    core.delete_namespaced_config_map("settings", NAMESPACE)
    say(deleted=refusal(lambda: core.read_namespaced_config_map("settings", NAMESPACE)))


def pages(core):
    for number in range(7):
        body = {"metadata": {"name": f"page-{number}", "labels": {"paged": "yes"}}}
        core.create_namespaced_config_map(NAMESPACE, body)
    sizes, following = [], None
    while following != "":
        page = core.list_namespaced_config_map(
            NAMESPACE, label_selector="paged=yes", limit=3, _continue=following
        )
        sizes.append(len(page.items))
        following = page.metadata._continue or ""
    say(pages=sizes)


def watched(core):
    version = core.list_namespaced_secret(NAMESPACE).metadata.resource_version
    for number in range(3):
        name = f"secret-{number}"
        core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": name}})
        core.delete_namespaced_secret(name, NAMESPACE)
    seen, watcher = [], watch.Watch()
    events = watcher.stream(
        core.list_namespaced_secret,
        NAMESPACE,
        resource_version=version,
        timeout_seconds=TIMEOUT_SECONDS,
    )
    for event in events:
        seen.append(f"{event['type']} {event['object'].metadata.name}")
        if len(seen) == 6:
            watcher.stop()
    say(watched=seen)


def without_types(api):
    deployments = dynamic.DynamicClient(api).resources.get(api_version="apps/v1", kind="Deployment")
    labels = {"app": "web"}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "registry.invalid/web:1"}]},
            },
        },
    }
    applied = deployments.server_side_apply(
        body=body, name="web", namespace=NAMESPACE, field_manager="session"
    )
    scaled = deployments.scale.patch(
        body={"spec": {"replicas": 4}},
        name="web",
        namespace=NAMESPACE,
        content_type="application/merge-patch+json",
    )
    say(kind=applied.kind, generation=applied.metadata.generation, replicas=scaled.spec.replicas)
    deployments.delete(name="web", namespace=NAMESPACE)


def who(api):
    review = client.AuthenticationV1Api(api).create_self_subject_review({})
    say(user=review.status.user_info.username, groups=sorted(review.status.user_info.groups))


def sessions(core, pod):
    def run(*command, **options):
        return stream(
            core.connect_get_namespaced_pod_exec,
            pod,
            NAMESPACE,
            command=list(command),
            stdout=True,
            stderr=True,
            _request_timeout=TIMEOUT_SECONDS,
            **options,
        )

    say(echoed=run("echo", "hello", "there"))
    session = run("report", "to-out", "to-err", "3", _preload_content=False)
    session.run_forever(timeout=TIMEOUT_SECONDS)
    say(out=session.read_stdout(), err=session.read_stderr(), code=session.returncode)
    session = run("cat", stdin=True, _preload_content=False)
    session.write_stdin("line\n")
    say(back=session.readline_stdout(timeout=TIMEOUT_SECONDS))
    session.close()


def main():
    api = config.new_client_from_config(sys.argv[1])
    core = client.CoreV1Api(api)
    say(version=client.VersionApi(api).get_code().git_version)
    who(api)
    single_objects(core)
    pages(core)
    watched(core)
    without_types(api)
    if len(sys.argv) > 3:
        sessions(core, sys.argv[3])


if __name__ == "__main__":
    main()
