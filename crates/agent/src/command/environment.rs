//! The environment variables of a command.

use std::ffi::CString;

use serde_bytes::ByteBuf;
use smolvm_protocol::message::Refusal;

use super::users::Account;
use crate::refusal;

/// Where programs are looked for, as Debian's login has it for root (login.defs(5), ENV_SUPATH).
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Characters beyond ASCII work, and no locale has to be installed (locale(7)).
const DEFAULT_LANGUAGE: &[u8] = b"C.UTF-8";

/// A terminal that every terminal database knows and every host's terminal understands.
const DEFAULT_TERMINAL: &[u8] = b"xterm-256color";

/// Variables by name; a later value replaces an earlier one.
#[derive(Debug)]
pub(super) struct Variables(Vec<(Vec<u8>, Vec<u8>)>);

impl Variables {
    /// Returns the defaults of `account` with `given` on top.
    pub(super) fn new(
        account: &Account,
        has_terminal: bool,
        given: impl Iterator<Item = (ByteBuf, ByteBuf)>,
    ) -> Result<Self, Refusal> {
        let mut variables = Self(Vec::new());
        variables.set(b"HOME", &account.home);
        variables.set(b"USER", &account.name);
        variables.set(b"LOGNAME", &account.name);
        variables.set(b"SHELL", &account.shell);
        variables.set(b"PATH", DEFAULT_PATH);
        variables.set(b"LANG", DEFAULT_LANGUAGE);
        if has_terminal {
            variables.set(b"TERM", DEFAULT_TERMINAL);
        }
        for (name, value) in given {
            if name.is_empty() || name.contains(&b'=') {
                let message = "an environment variable's name must not be empty or contain `=`";
                return Err(refusal::invalid(message));
            }
            variables.set(&name, &value);
        }
        Ok(variables)
    }

    /// Returns the value of a variable.
    pub(super) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// Returns `NAME=value` strings.
    pub(super) fn into_strings(self) -> Result<Vec<CString>, Refusal> {
        let join = |(mut name, value): (Vec<u8>, Vec<u8>)| {
            name.push(b'=');
            name.extend(value);
            CString::new(name)
                .map_err(|_| refusal::invalid("an environment variable cannot contain a NUL byte"))
        };
        self.0.into_iter().map(join).collect()
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.0.push((name.to_vec(), value.to_vec())),
        }
    }
}
