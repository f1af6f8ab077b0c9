//! The text of rules.

use proptest::prelude::*;

use super::*;

fn rule(text: &str) -> Rule {
    text.parse().expect("a rule")
}

fn error(text: &str) -> RuleError {
    text.parse::<Rule>().expect_err("not a rule")
}

#[test]
fn rules_are_written_as_they_are_read() {
    for text in [
        "allow example.com",
        "allow *.example.com:443",
        "deny 203.0.113.0/24",
        "allow [2001:db8::/32]:443/udp",
        "allow 2001:db8::1",
        "allow 2001:db8::/32/any",
        "allow 10.0.0.0/8:5432,6000-6100",
        "allow host.smolvm.internal:8080",
        "allow */icmp",
        "deny *",
        "deny *.com",
        "deny host.smolvm.internal",
        "deny example.com/tcp",
        "deny db.peer.smolvm.internal:5432",
        "deny *.peer.smolvm.internal",
        "deny from *",
        "deny from web:5432",
        "deny from *.peer.smolvm.internal:1-1023/tcp",
    ] {
        assert_eq!(rule(text).to_string(), text);
    }
}

#[test]
fn spellings_that_mean_the_same_become_one() {
    for (text, expected) in [
        ("  ALLOW   Example.COM.:443/TCP ", "allow example.com:443"),
        (
            "allow 10.0.0.0/8:5432,6000-6100/tcp",
            "allow 10.0.0.0/8:5432,6000-6100",
        ),
        ("allow bücher.example", "allow xn--bcher-kva.example"),
        ("allow 192.0.2.1/32", "allow 192.0.2.1"),
        ("allow ::ffff:10.0.0.0/104", "allow 10.0.0.0/8"),
        ("allow [2001:db8::1]", "allow 2001:db8::1"),
        ("deny 192.0.2.1/any", "deny 192.0.2.1"),
        ("DENY  From Web:80/any", "deny from web:80"),
    ] {
        assert_eq!(rule(text).to_string(), expected, "{text}");
    }
}

#[test]
fn protocol_left_out_is_tcp_to_allow_and_any_to_deny() {
    let allow = rule("allow example.com:443");
    assert!(allow.covers(Protocol::Tcp, 443));
    assert!(!allow.covers(Protocol::Udp, 443));
    let deny = rule("deny example.com:443");
    assert!(deny.covers(Protocol::Udp, 443));
    assert!(!deny.covers_all());
    assert!(rule("deny example.com").covers_all());
}

#[test]
fn range_of_ports_includes_both_ends() {
    let rule = rule("allow example.com:80,6000-6100");
    for (port, expected) in [
        (80, true),
        (81, false),
        (5999, false),
        (6000, true),
        (6100, true),
        (6101, false),
    ] {
        assert_eq!(rule.covers(Protocol::Tcp, port), expected, "{port}");
    }
}

#[test]
fn errors_name_column_and_cure() {
    let messages: Vec<String> = [
        "",
        "permit example.com",
        "allow",
        "allow example.com tcp",
        "allow exa_mple..com",
        "allow a.*.example.com",
        "allow *example.com",
        "allow *.com",
        "allow *.co.uk:443",
        "allow 10.0.0.1/8",
        "allow 10.0.0.256",
        "allow 10.0.0.0/33",
        "allow 2001:db8::/32:443",
        "allow [2001:db8::1:443",
        "allow [10.0.0.1]:443",
        "allow example.com:0",
        "allow example.com:443,",
        "allow example.com:65536",
        "allow example.com:+443",
        "allow example.com:90-80",
        "allow example.com/sctp",
        "allow example.com:443/icmp",
        "allow host.smolvm.internal",
        "allow bücher.example:x",
        "allow from web",
        "allow db.peer.smolvm.internal",
        "allow *.peer.smolvm.internal:80",
        "deny from",
        "deny from example.com",
        "deny from 10.0.0.0/8",
        "deny from *.example.com",
        "deny from web:0",
    ]
    .into_iter()
    .map(|text| error(text).to_string())
    .collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn long_text_is_cut_in_its_error() {
    let error = error(&"x".repeat(100_000));
    assert_eq!(error.rule.len(), 80);
}

proptest! {
    #[test]
    fn no_text_panics(text in "(allow|deny)? ?(from )?[a-z*.0-9:/,\\[\\]é -]{0,40}") {
        let _result = text.parse::<Rule>();
    }

    #[test]
    fn what_is_read_is_read_again(text in "(allow|deny) (from )?(\\*\\.)?([a-z]{1,3}\\.[a-z]{1,3}|[0-9.]{7}|[0-9a-f:]{5}|\\[[0-9a-f:]{5}\\])(:[0-9]{2}(-[0-9]{3})?)?(/(any|udp|tcp))?") {
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }
    }
}
