//! What the server says about itself: discovery, schemas, health, metrics.

use crate::transparency::call::{Over, Scenario, call, get, gets};
use crate::transparency::who::Who;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const AGGREGATED_PROTOBUF: &str = "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;\
     as=APIGroupDiscoveryList,application/json";
const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut legacy = gets([
        "/",
        "/api",
        "/api/",
        "/apis",
        "/apis/",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/apis/shop.example/v1",
        "/apis/apiregistration.k8s.io/v1",
        "/apis/nope.example",
        "/apis/nope.example/v1",
        "/api/v9",
        "/nope",
        "/version",
        "/version/",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
    ]);
    legacy.push(get("/api/v1").accept("application/vnd.kubernetes.protobuf"));
    legacy.push(get("/apis").accept("application/yaml"));
    let mut aggregated = Vec::new();
    for path in ["/api", "/apis"] {
        aggregated.push(get(path).accept(AGGREGATED));
        aggregated.push(get(path).accept(AGGREGATED_PROTOBUF));
        aggregated.push(
            get(path)
                .accept(AGGREGATED)
                .header("accept-encoding", "gzip"),
        );
    }
    aggregated.push(get("/apis").accept(AGGREGATED).keep("seen", "etag"));
    aggregated.push(
        get("/apis")
            .accept(AGGREGATED)
            .header("if-none-match", "<seen>"),
    );
    aggregated.push(
        get("/apis")
            .accept(AGGREGATED)
            .header("if-none-match", "\"other\""),
    );
    let schemas = vec![
        get("/openapi/v3").keep("apps", "/paths/apis~1apps~1v1/serverRelativeURL"),
        get("<apps>").keep("seen", "etag"),
        get("<apps>").header("if-none-match", "<seen>"),
        get("/openapi/v3/apis/apps/v1?hash=00"),
        get("/openapi/v3/apis/nope.example/v1"),
        get("/openapi/v3").accept("application/yaml"),
    ];
    let large_schema = vec![
        get("/openapi/v2")
            .header("accept-encoding", "gzip")
            .keep("seen", "etag"),
        get("/openapi/v2").header("if-none-match", "<seen>"),
        get("/openapi/v2").header("if-modified-since", "Thu, 01 Jan 2099 00:00:00 GMT"),
        get("/openapi/v2")
            .accept(OPENAPI_PROTOBUF)
            .header("accept-encoding", "gzip"),
        call("HEAD", "/openapi/v2"),
    ];
    let mut health = gets([
        "/healthz",
        "/livez",
        "/readyz",
        "/livez?verbose",
        "/readyz?verbose&exclude=etcd",
        "/healthz/etcd",
        "/livez/ping",
        "/livez/nope",
    ]);
    health.push(call("HEAD", "/livez"));
    health.push(call("POST", "/livez"));
    health.push(get("/statusz").volatile("how long it has been up"));
    health.push(get("/flagz"));
    health.push(get("/debug/pprof/cmdline").volatile("a command line with files of its own"));
    let numbers = "numbers that count, also this call";
    let metrics = vec![
        get("/metrics/slis").volatile(numbers),
        get("/metrics").volatile(numbers),
        get("/metrics")
            .header("accept-encoding", "gzip")
            .volatile(numbers),
    ];
    vec![
        Scenario::new("discovery, group by group", Who::User, legacy),
        Scenario::new("aggregated discovery", Who::User, aggregated),
        Scenario::new("OpenAPI v3", Who::User, schemas),
        Scenario::new("OpenAPI v2", Who::User, large_schema).over(Over::Http2),
        Scenario::new("health", Who::Masters, health),
        Scenario::new("metrics", Who::Masters, metrics),
    ]
}
