//! `lint`: everything about the sources that can be checked without running them.
//!
//! The documentation is checked with its private items: a module's map names the private modules
//! behind it, and its readers are the people who work on them.

use crate::TaskResult;
use crate::command::{cargo, run as run_command};
use crate::workspace::Workspace;

const DOC_FLAGS: &str = "-D warnings -A rustdoc::private-intra-doc-links";

pub(crate) fn run(workspace: &Workspace) -> TaskResult {
    run_command(&mut cargo(workspace, &["fmt", "--all", "--check"]))?;
    run_command(&mut cargo(
        workspace,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    ))?;
    run_command(
        cargo(
            workspace,
            &[
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--locked",
            ],
        )
        .env("RUSTDOCFLAGS", DOC_FLAGS),
    )?;
    Ok(())
}
