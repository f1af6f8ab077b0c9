//! Secrets and rules for requests, as Python asks for them.

use pyo3::prelude::*;
use smolvm_sandbox::{HttpRule, HttpRuleError, NameError, NamePattern, SecretSpec};

use crate::failure::Failure;

/// A secret as Python has it: its name, its value, and its hosts.
pub(crate) type SecretArgument = (String, String, Vec<String>);

/// Returns the secret that Python asks for; an error names the part of `field` that is wrong.
pub(crate) fn secret(field: &str, asked: &SecretArgument) -> Result<SecretSpec, Failure> {
    let (name, value, hosts) = asked;
    let host = |(index, host): (usize, &String)| {
        host.parse::<NamePattern>().map_err(|error: NameError| {
            let field = format!("{field}.hosts.{index}");
            Failure::argument(&field, format!("'{host}': {error}"))
        })
    };
    let hosts = hosts
        .iter()
        .enumerate()
        .map(host)
        .collect::<Result<_, _>>()?;
    SecretSpec::new(name, value, hosts).map_err(|error| Failure::argument(field, error.to_string()))
}

/// Checks a secret.
#[pyfunction]
pub(crate) fn check_secret(
    py: Python<'_>,
    field: &str,
    name: String,
    value: String,
    hosts: Vec<String>,
) -> PyResult<()> {
    let checked = secret(field, &(name, value, hosts)).map(|_| ());
    checked.map_err(|failure| failure.into_py_err(py))
}

/// Checks rules for requests.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 makes the list of Python's"
)]
pub(crate) fn check_http_rules(py: Python<'_>, field: &str, rules: Vec<String>) -> PyResult<()> {
    for (index, rule) in rules.iter().enumerate() {
        let checked: Result<HttpRule, HttpRuleError> = rule.parse();
        checked.map_err(|error| {
            Failure::argument(&format!("{field}.{index}"), error.to_string()).into_py_err(py)
        })?;
    }
    Ok(())
}
