//! Rules as people write them, and paths as attackers do.

use super::*;
use crate::http::RequestHost;

fn rules(texts: &[&str]) -> HttpRules {
    let rules = texts.iter().map(|text| text.parse().expect("a rule"));
    HttpRules::new(rules.collect())
}

fn request(method: &str, host: &str, path: &str) -> RequestHead {
    RequestHead {
        host: RequestHost::Name(host.parse().expect("a name")),
        port: 443,
        method: method.to_owned(),
        path: path.to_owned(),
        is_tls: true,
    }
}

fn is_allowed(rules: &HttpRules, method: &str, path: &str) -> bool {
    rules
        .request(&request(method, "api.example.com", path))
        .expect("about this host")
        .is_allowed
}

#[test]
fn rule_allows_its_methods_below_its_path() {
    let rules = rules(&["GET,POST api.example.com/v1/*"]);
    let verdict = rules.request(&request("POST", "api.example.com", "/v1/a/b"));
    assert_eq!(
        verdict,
        Some(Verdict::allowed("GET,POST api.example.com/v1/*"))
    );
    assert!(is_allowed(&rules, "GET", "/v1/"));
    assert!(!is_allowed(&rules, "DELETE", "/v1/a"));
    assert!(!is_allowed(&rules, "get", "/v1/a"));
    assert!(!is_allowed(&rules, "GET", "/v1"));
    assert!(!is_allowed(&rules, "GET", "/v10/a"));
    assert!(!is_allowed(&rules, "GET", "/V1/a"));
    assert!(!is_allowed(&rules, "GET", "/"));
}

#[test]
fn host_without_rules_takes_everything() {
    let rules = rules(&["GET *.example.com"]);
    assert_eq!(rules.request(&request("PUT", "example.com", "/")), None);
    assert!(is_allowed(&rules, "GET", "/any/../thing"));
    assert!(!is_allowed(&rules, "PUT", "/any"));
}

#[test]
fn star_within_a_path_is_one_segment() {
    let rules = rules(&["* api.example.com/repos/*/issues"]);
    assert!(is_allowed(&rules, "PATCH", "/repos/smolvm/issues"));
    assert!(!is_allowed(&rules, "GET", "/repos/a/b/issues"));
    assert!(!is_allowed(&rules, "GET", "/repos//issues"));
    assert!(!is_allowed(&rules, "GET", "/repos/a/issues/1"));
}

#[test]
fn encoded_path_is_the_same_path() {
    let rules = rules(&["GET api.example.com/v1/a%20b"]);
    assert!(is_allowed(&rules, "GET", "/%76%31/a%20b"));
    assert!(!is_allowed(&rules, "GET", "/v1/a+b"));
}

#[test]
fn no_spelling_of_a_path_gets_around_a_rule() {
    let rules = rules(&["GET api.example.com/v1/*"]);
    for path in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/admin/../v1/x",
        "/v1/x/../../admin",
        "/v1/./../admin",
        "/v1//../admin",
        "/v1/..",
        "/v1/..;/admin",
        "/v1/..%3bx/admin",
        "/v1/..%2fadmin",
        "/v1/..%5cadmin",
        "/v1/%252e%252e/admin",
        "/v1/%25zz%252e%252e/admin",
        "/v1/%00",
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/%zz",
        "/v1/%",
        "//v1/x",
        "//api.example.com/v1/../admin",
        "*",
    ] {
        assert!(!is_allowed(&rules, "GET", path), "{path}");
    }
    for path in [
        "/v1/x/../y",
        "/v1/./y",
        "/v1/x;a=b",
        "/v1/100%25",
        "/v1/x//y",
    ] {
        assert!(is_allowed(&rules, "GET", path), "{path}");
    }
}

#[test]
fn errors_name_column_and_cure() {
    let error = |text: &str| {
        let error = text.parse::<HttpRule>().expect_err("illegal");
        (error.column, error.problem)
    };
    assert_eq!(error(""), (1, HttpRuleProblem::Empty));
    assert_eq!(error("GET,get a.example"), (5, HttpRuleProblem::Method));
    assert_eq!(error("GET, a.example"), (5, HttpRuleProblem::Method));
    assert_eq!(error("GET "), (5, HttpRuleProblem::NoHost));
    assert_eq!(error("GET /v1"), (5, HttpRuleProblem::NoHost));
    assert_eq!(
        error("GET a.*.example/"),
        (5, HttpRuleProblem::Host(NameError::Character))
    );
    assert_eq!(
        error("GET a.example/x y"),
        (17, HttpRuleProblem::TrailingText)
    );
    assert_eq!(error("GET a.example/x?y"), (16, HttpRuleProblem::Query));
    assert_eq!(error("GET a.example/v*/x"), (16, HttpRuleProblem::Wildcard));
    assert_eq!(
        error("GET a.example/v1/../x"),
        (14, HttpRuleProblem::Path(PathProblem::Dots))
    );
    assert_eq!(
        "GET,x a.example"
            .parse::<HttpRule>()
            .expect_err("illegal")
            .to_string(),
        "rule \"GET,x a.example\", column 5: a method is written in capitals, such as `GET`, or \
         `*` for all"
    );
}

#[test]
fn rule_is_shown_as_it_is_written() {
    for text in [
        "GET,POST api.example.com/v1/*",
        "* *.example.com/*",
        "GET a.example/",
    ] {
        assert_eq!(text.parse::<HttpRule>().expect("a rule").to_string(), text);
    }
}

#[test]
fn rule_with_encoded_characters_is_read_again_as_it_is_shown() {
    for text in [
        "GET a.example/a%20b/~user",
        "GET a.example/%2A",
        "GET a.example/100%25",
        "GET a.example/%3Fq",
        "GET a.example/a%C2%A0b",
        "GET a.example/b%C3%BCcher",
    ] {
        let rule: HttpRule = text.parse().expect("a rule");
        assert_eq!(rule.to_string(), text);
        assert_eq!(rule.to_string().parse(), Ok(rule));
    }
}

#[test]
fn encoded_star_is_no_wildcard() {
    let rules = rules(&["GET api.example.com/v1/%2A"]);
    assert!(is_allowed(&rules, "GET", "/v1/*"));
    assert!(!is_allowed(&rules, "GET", "/v1/x"));
    let error = "GET a.example/*/a*b".parse::<HttpRule>();
    assert_eq!(error.expect_err("illegal").column, 18);
}
