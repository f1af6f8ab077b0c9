//! A name means the name: whatever addresses it has, and never one that is protected.

use serde_json::{Value, json};
use smolvm_tests::lab::Lab;

#[test]
fn name_is_reached_at_each_of_its_addresses() {
    let lab = Lab::new();
    lab.name_in_turn(
        "spin.lab.test",
        &[&["203.0.113.11"], &["203.0.113.12"], &["203.0.113.13"]],
    );
    lab.alias("alias.lab.test", "elsewhere.test");
    lab.name("elsewhere.test", &["203.0.113.14"]);
    let guest = lab.guest("box", &["--allow=spin.lab.test", "--allow=alias.lab.test"]);
    let address_of =
        |url: &str| guest.sh(&format!("curl -sS -4 {url}")).ok().json()["address"].clone();
    let mut addresses: Vec<Value> = (0..3)
        .map(|_| address_of("http://spin.lab.test/"))
        .collect();
    addresses.sort_by_key(Value::to_string);
    assert_eq!(addresses, ["203.0.113.11", "203.0.113.12", "203.0.113.13"]);
    assert_eq!(address_of("http://alias.lab.test/"), "203.0.113.14");
    // What an alias leads to is not allowed by that.
    assert_eq!(guest.sh("curl -sS http://elsewhere.test/").code, 6);
}

#[test]
fn name_that_moves_to_a_protected_address_is_not_followed() {
    let lab = Lab::new();
    let guest = lab.guest("box", &["--net=open"]);
    for address in [
        "127.0.0.1",
        "10.9.8.7",
        "169.254.169.254",
        "fd00::1",
        "::ffff:10.9.8.7",
        "198.51.100.1",
    ] {
        lab.name("moving.lab.test", &["203.0.113.11"]);
        let page = guest.sh("curl -sS http://moving.lab.test/").ok().json();
        assert_eq!(page["address"], "203.0.113.11");
        lab.name("moving.lab.test", &[address]);
        assert_eq!(
            guest.sh("curl -sS http://moving.lab.test/").code,
            6,
            "{address}"
        );
    }
    let withheld: Vec<Value> = guest
        .log()
        .iter()
        .flat_map(|event| event["withheld"].as_array().cloned().unwrap_or_default())
        .collect();
    assert!(withheld.contains(&json!("169.254.169.254")), "{withheld:?}");
    // The public addresses of a name that has both kinds remain.
    lab.name("both.lab.test", &["10.9.8.7", "203.0.113.11"]);
    let page = guest.sh("curl -sS http://both.lab.test/").ok().json();
    assert_eq!(page["address"], "203.0.113.11");
}
