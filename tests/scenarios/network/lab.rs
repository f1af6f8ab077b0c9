//! The lab itself: everything that scenarios are about answers, and nothing of it is left.

use smolvm_tests::lab::{HOST, Lab, WEB};

#[test]
fn servers_of_the_lab_answer_its_host() {
    let lab = Lab::new();
    let authority = lab.authority();
    let authority = authority.to_str().expect("text");
    let get = |url: &str| {
        lab.run(&["curl", "-sS", "--ipv4", "--cacert", authority, url])
            .ok()
            .json()
    };
    for (url, address) in [
        ("http://web.lab.test/", WEB),
        ("http://web.lab.test:8080/", WEB),
        ("https://web.lab.test/", WEB),
        ("https://web.lab.test:8443/", WEB),
        // What policies protect is there, too, and so are the host's own servers.
        ("http://10.9.8.7/", "10.9.8.7"),
        ("http://169.254.169.254/", "169.254.169.254"),
        ("http://127.0.0.1:8080/", "127.0.0.1"),
        ("http://198.51.100.1:8080/", HOST),
    ] {
        assert_eq!(get(url)["address"], address, "{url}");
    }
    assert_eq!(get("https://web.lab.test/")["sni"], "web.lab.test");
    let by_ipv6 = lab.run(&["curl", "-sS", "--ipv6", "http://web.lab.test/"]);
    assert_eq!(by_ipv6.ok().json()["address"], "2001:db8:2::10");
}

#[test]
fn names_of_the_lab_have_their_turns_and_aliases() {
    let lab = Lab::new();
    lab.name_in_turn("spin.lab.test", &[&["203.0.113.11"], &["203.0.113.12"]]);
    lab.alias("alias.lab.test", "spin.lab.test");
    let get = |url: &str| lab.run(&["curl", "-sS", "-4", url]).ok().json()["address"].clone();
    assert_eq!(get("http://spin.lab.test/"), "203.0.113.11");
    assert_eq!(get("http://alias.lab.test/"), "203.0.113.12");
    assert_eq!(get("http://spin.lab.test/"), "203.0.113.11");
    let nowhere = lab.run(&["curl", "-sS", "http://nowhere.test/"]);
    assert_eq!(nowhere.code, 6, "{}", nowhere.errors());
}
