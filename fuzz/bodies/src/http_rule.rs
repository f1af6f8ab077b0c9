//! Rules for requests, and requests that they judge.
//!
//! ```text
//!   GET api.example.com/v1/*        the rule
//!   GET /v1/../admin                method and path of a request
//! ```
//!
//! What is read is written so that it is read as the same rule, and a request that is allowed has a
//! path without segments that lead upwards in any reading.

use smolvm_network::{HttpRule, HttpRules, Name, RequestHead, RequestHost};

/// The host that requests are for.
const HOST: &str = "api.example.com";

/// Reads the first line as a rule, and has it judge the others.
///
/// # Panics
///
/// When something does not hold.
pub fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let mut lines = text.split('\n');
    let line = lines.next().unwrap_or_default();
    let rule = match line.parse::<HttpRule>() {
        Ok(rule) => rule,
        Err(error) => {
            let last_column = line.chars().count() + 1;
            assert!((1..=last_column).contains(&error.column), "{error}");
            return;
        }
    };
    let written = rule.to_string();
    assert_eq!(
        written.parse().as_ref(),
        Ok(&rule),
        "written as {written:?}"
    );
    let rules = HttpRules::new(vec![rule]);
    for request in lines.filter_map(request) {
        let verdict = rules.request(&request);
        if verdict.is_some_and(|verdict| verdict.is_allowed) {
            assert_leads_nowhere_else(&request.path);
        }
    }
}

fn request(line: &str) -> Option<RequestHead> {
    let (method, path) = line.split_once(' ')?;
    Some(RequestHead {
        host: RequestHost::Name(Name::from_ascii(HOST).expect("a name")),
        port: 443,
        method: method.to_owned(),
        path: path.to_owned(),
        is_tls: true,
    })
}

/// Checks a path that was allowed: no server reads anything in it as another separator, and none
/// decodes it twice.
fn assert_leads_nowhere_else(path: &str) {
    let lower = path.to_ascii_lowercase();
    for trap in ["%2f", "%5c", "\\", "%00", "%252f", "%252e", "/..;"] {
        assert!(!lower.contains(trap), "{path:?} is allowed");
    }
}

/// Returns inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "GET,POST api.example.com/v1/*\nGET /v1/issues\nPOST /v1/../admin",
        "* *.example.com\nDELETE /\nGET /a//../b\nGET /a%2fb",
        "GET api.example.com/v1/*/issues\nGET /v1/./issues\nGET /v1/..;/issues",
        "GET * /x\nGET /",
        "GET api.example.com/a%20b/%7Euser\nGET /a%20b/~user\nGET /%61%20b/~user",
        "GET api.example.com/..\nGET api.example.com/a*b\nGET x.example/?q",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
