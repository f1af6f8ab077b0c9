//! From what the host asked for to what the kernel is told.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Command, Exec, Refusal};

use super::environment::Variables;
use super::users::{Account, AccountFiles, FALLBACK_SHELL};
use crate::refusal;
use crate::sys::spawn::Credentials;

/// A command that is ready to start, but for its descriptors.
#[derive(Debug)]
pub(crate) struct CommandPlan {
    /// Paths to try in turn.
    pub(crate) programs: Vec<CString>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) directory: CString,
    /// Where to run when the directory is only a default and does not exist.
    pub(crate) fallback_directory: Option<CString>,
    pub(crate) credentials: Credentials,
}

impl CommandPlan {
    /// Resolves `exec` against the guest's accounts and the variables that all commands have. Blocks.
    ///
    /// # Errors
    ///
    /// When a value is not legal or the user does not exist.
    pub(crate) fn resolve(
        exec: &Exec,
        accounts: &AccountFiles,
        common: Vec<(ByteBuf, ByteBuf)>,
    ) -> Result<Self, Refusal> {
        let mut account = accounts.find(exec.user.as_deref())?;
        if !Path::new(OsStr::from_bytes(&account.shell)).exists() {
            account.shell = FALLBACK_SHELL.to_vec();
        }
        let has_terminal = exec.terminal.is_some();
        let given = common.into_iter().chain(exec.environment.iter().cloned());
        let variables = Variables::new(&account, has_terminal, given)?;
        let (program, arguments) = command_line(&exec.command, &account)?;
        let programs = candidates(&program, variables.get(b"PATH").unwrap_or(b""))?;
        let (directory, fallback_directory) = match &exec.working_directory {
            Some(directory) if directory.first() != Some(&b'/') => {
                return Err(refusal::invalid("the working directory must be absolute"));
            }
            Some(directory) => (c_string(directory)?, None),
            None => (c_string(&account.home)?, Some(c"/".to_owned())),
        };
        let arguments: Result<_, _> = arguments.iter().map(|one| c_string(one)).collect();
        Ok(Self {
            programs,
            arguments: arguments?,
            environment: variables.into_strings()?,
            directory,
            fallback_directory,
            credentials: account.credentials,
        })
    }
}

/// Returns the program and its arguments, the zeroth included.
fn command_line(command: &Command, account: &Account) -> Result<(Vec<u8>, Vec<Vec<u8>>), Refusal> {
    let shell = account.shell.clone();
    match command {
        Command::Arguments(arguments) => {
            let program = arguments
                .first()
                .filter(|program| !program.is_empty())
                .ok_or_else(|| refusal::invalid("the command is empty"))?;
            let all = arguments.iter().map(|one| one.to_vec()).collect();
            Ok((program.to_vec(), all))
        }
        Command::Shell { script, login } => {
            let option: &[u8] = if *login { b"-lc" } else { b"-c" };
            let arguments = vec![shell.clone(), option.to_vec(), script.to_vec()];
            Ok((shell, arguments))
        }
        // A shell whose zeroth argument starts with a dash reads the profile (bash(1),
        // "INVOCATION").
        Command::LoginShell => {
            let name = shell.rsplit(|byte| *byte == b'/').next().unwrap_or(&shell);
            let zeroth = [b"-", name].concat();
            Ok((shell, vec![zeroth]))
        }
    }
}

/// Returns the paths that `program` can mean, as execvp(3) tries them.
fn candidates(program: &[u8], search_path: &[u8]) -> Result<Vec<CString>, Refusal> {
    if program.contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    search_path
        .split(|byte| *byte == b':')
        .map(|directory| match directory {
            // An empty entry is the working directory.
            b"" => c_string(&[b"./", program].concat()),
            _ => c_string(&[directory, b"/", program].concat()),
        })
        .collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, Refusal> {
    CString::new(bytes)
        .map_err(|_| refusal::invalid("a command, argument or directory cannot contain a NUL byte"))
}
