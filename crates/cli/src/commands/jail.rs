//! `jail PLAN`, hidden: enters the jail that `PLAN` (JSON) describes and becomes its program.
//! `jail --namespaces` says which namespaces this host would allow it there.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use smolvm_sandbox::NAMESPACES_OPTION;
use smolvm_sandbox::jail::{self, JailPlan};

use crate::failure::OUR_FAILURE;
use crate::{output, text};

/// Becomes the program of `plan`; returns only when that fails.
pub(crate) fn main(plan: Option<OsString>) -> ExitCode {
    if plan.as_deref() == Some(OsStr::new(NAMESPACES_OPTION)) {
        return say_namespaces();
    }
    let plan = plan.as_ref().and_then(|plan| plan.to_str());
    let message = match plan.map(serde_json::from_str::<JailPlan>) {
        Some(Ok(plan)) => text::chain(&plan.enter()),
        Some(Err(error)) => format!("read the plan of the jail: {error}"),
        None => "read the plan of the jail: it is missing or not text".to_owned(),
    };
    output::error_line(&format!("smolvm jail: {message}"));
    ExitCode::from(OUR_FAILURE)
}

fn say_namespaces() -> ExitCode {
    let said = serde_json::to_vec(&jail::try_namespaces());
    match said.map(|said| output::stream(&said)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::from(OUR_FAILURE),
    }
}
