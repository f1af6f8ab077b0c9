//! `jail PLAN`, hidden: enters the jail that `PLAN` (JSON) describes and becomes its program.

use std::ffi::OsString;
use std::process::ExitCode;

use smolvm_sandbox::jail::JailPlan;

use crate::failure::OUR_FAILURE;
use crate::{output, text};

/// Becomes the program of `plan`; returns only when that fails.
pub(crate) fn main(plan: Option<OsString>) -> ExitCode {
    let plan = plan.as_ref().and_then(|plan| plan.to_str());
    let message = match plan.map(serde_json::from_str::<JailPlan>) {
        Some(Ok(plan)) => text::chain(&plan.enter()),
        Some(Err(error)) => format!("read the plan of the jail: {error}"),
        None => "read the plan of the jail: it is missing or not text".to_owned(),
    };
    output::error_line(&format!("smolvm jail: {message}"));
    ExitCode::from(OUR_FAILURE)
}
