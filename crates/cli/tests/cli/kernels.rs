//! `kernel`: what it says where there are no kernels; building one is for `cargo xtask test-kernel`.

use serde_json::{Value, json};

use crate::home::Home;

#[test]
fn list_without_kernels_says_how_to_get_them() {
    let home = Home::new();
    home.run(&["kernel", "list"]).said(
        "There are no kernels yet. Fetch the stock one: smolvm setup\n\
         The tuned kernel is not built. Build it: smolvm kernel build\n",
    );
    assert_eq!(
        home.data(&["kernel", "list"]),
        json!({"choice": null, "kernels": []})
    );
}

#[test]
fn a_kernel_that_is_not_built_cannot_be_used() {
    let home = Home::new();
    let ended = home.run(&["kernel", "use", "tuned"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended
            .stderr
            .contains("the kernel tuned is not in the cache")
            && ended.stderr.contains("hint: build it: smolvm kernel build"),
        "{}",
        ended.stderr
    );
    let mut document = home
        .run(&["--json", "kernel", "use", "6.12.1-smolvm"])
        .document();
    assert_eq!(document["command"], "kernel.use");
    assert_eq!(document["error"]["code"], "kernel_not_prepared");
    assert_eq!(document["error"]["details"]["kind"], "not_found");
    assert_eq!(document["data"].take(), Value::Null);
    assert_eq!(home.data(&["kernel", "list"])["choice"], Value::Null);
}

#[test]
fn what_is_no_name_of_a_kernel_is_refused() {
    let home = Home::new();
    for name in ["latest", "Stock", "../6.12", ""] {
        let ended = home.run(&["kernel", "use", name]);
        assert_eq!(ended.code, 2, "{name}: {}", ended.stderr);
        assert!(
            ended
                .stderr
                .contains("is neither stock nor tuned nor the release of a kernel"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn the_stock_kernel_can_be_chosen_before_it_is_fetched() {
    let home = Home::new();
    home.run(&["kernel", "use", "stock"])
        .said("Guests boot the stock kernel from their next start on, which fetches it.\n");
    assert_eq!(home.data(&["kernel", "list"])["choice"], "stock");
}

#[test]
fn a_damaged_choice_is_an_error_that_says_what_to_do() {
    let home = Home::new();
    home.run(&["kernel", "use", "stock"]);
    let file = home.path().join("cache/kernel-choice.json");
    std::fs::write(&file, "{\"version\": 1").expect("written");
    let ended = home.run(&["kernel", "list"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("kernel-choice.json is damaged")
            && ended
                .stderr
                .contains("hint: choose anew: smolvm kernel use stock"),
        "{}",
        ended.stderr
    );
    assert_eq!(home.run(&["kernel", "use", "stock"]).code, 0);
    assert_eq!(home.run(&["kernel", "list"]).code, 0);
}
