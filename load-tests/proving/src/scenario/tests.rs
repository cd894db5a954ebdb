use super::*;

const LEAST: &str = "
name: least
about: nothing
length: 10s
server: {cores: 1}
expect: {}
";

#[test]
fn the_least_scenario_is_read() {
    let scenario = Scenario::read("least", LEAST).unwrap();
    assert_eq!(scenario.server.memory, Size(16 << 30));
}

#[test]
fn an_unknown_key_is_refused_and_named_with_its_place() {
    let yaml = LEAST.replace("length: 10s", "length: 10s\nlenght: 5s");
    let message = Scenario::read("least", &yaml).unwrap_err().to_string();
    assert!(
        message.contains("lenght") && message.contains("line 5"),
        "{message}"
    );
}

#[test]
fn a_time_without_a_unit_is_refused() {
    let yaml = LEAST.replace("length: 10s", "length: 10");
    let message = Scenario::read("least", &yaml).unwrap_err().to_string();
    assert!(message.contains("250ms"), "{message}");
}

#[test]
fn clients_without_a_size_are_refused_by_name() {
    let yaml = format!(
        "{LEAST}\nclients:\n- {{name: lost, who: node, call: GET /api/v1/pods, demand: {{per_second: 1}}}}\n"
    );
    let message = Scenario::read("least", &yaml).unwrap_err().to_string();
    assert!(
        message.contains("clients lost") && message.contains("all_pods"),
        "{message}"
    );
}
