//! `record`, hidden: records the machine whose plan comes on standard input, as a template.
//!
//! Started by the library, which reads the error output.

use std::io::{self, Write as _};
use std::process::ExitCode;

use smolvm_sandbox::template;

use crate::text;

/// Records the machine.
pub(crate) fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let recorded = match runtime {
        Ok(runtime) => {
            let recorded = runtime.block_on(template::record());
            // A thread of it may still wait for standard input.
            runtime.shutdown_background();
            recorded.map_err(|error| text::chain(&error))
        }
        Err(error) => Err(error.to_string()),
    };
    match recorded {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _unheard = write!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}
