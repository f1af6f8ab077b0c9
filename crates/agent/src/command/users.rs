//! The guest's accounts, read from `/etc/passwd` and `/etc/group` (passwd(5), group(5)).
//!
//! Both files belong to the guest and are hostile: they may be missing, huge, a FIFO, or hold
//! any bytes. A line that is not a record is skipped.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Gid, OFlags, Uid};
use smolvm_protocol::message::{Refusal, RefusalCode};

use crate::refusal;
use crate::sys::spawn::Credentials;

/// Bytes of an account file that are read; thousands of accounts fit.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Supplementary groups a process may have (`NGROUPS_MAX`, linux/limits.h).
const MAX_GROUPS: usize = 65_536;

/// The shell of accounts that name none, or that are not meant for logging in.
pub(super) const FALLBACK_SHELL: &[u8] = b"/bin/sh";

/// Shells that only say no; the host runs a command on its own authority, not by logging in.
const REFUSING_SHELLS: [&[u8]; 2] = [b"nologin", b"false"];

/// Who runs a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) credentials: Credentials,
    pub(crate) name: Vec<u8>,
    pub(crate) home: Vec<u8>,
    pub(crate) shell: Vec<u8>,
}

/// Content of the guest's account files.
#[derive(Debug)]
pub(crate) struct AccountFiles {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl AccountFiles {
    /// Reads the files. Blocks. A file that cannot be read counts as empty.
    pub(crate) fn read() -> Self {
        Self {
            passwd: read_regular(Path::new("/etc/passwd")),
            group: read_regular(Path::new("/etc/group")),
        }
    }

    /// Finds who `user` names: `name`, `uid`, `name:group` or `uid:gid`; root when absent.
    ///
    /// A number without an account is legal, as for containers: it has group 0 unless one is
    /// given, and `/` for a home. Root is known even to a guest without accounts.
    pub(crate) fn find(&self, user: Option<&str>) -> Result<Account, Refusal> {
        let (user, group) = match user.unwrap_or("root").split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (user.unwrap_or("root"), None),
        };
        let mut account = self.account(user)?;
        if let Some(group) = group {
            account.credentials.gid = self.group(group)?;
        }
        account.credentials.groups = self.groups_of(&account.name, account.credentials.gid);
        Ok(account)
    }

    fn account(&self, user: &str) -> Result<Account, Refusal> {
        let records = || {
            self.passwd
                .split(|byte| *byte == b'\n')
                .filter_map(parse_passwd)
        };
        let number = parse_id(user.as_bytes());
        let found = records()
            .find(|record| record.name == user.as_bytes())
            .or_else(|| records().find(|record| Some(record.uid) == number));
        match (found, number) {
            (Some(record), _) => Ok(record.account()),
            (None, _) if user == "root" || number == Some(0) => Ok(Record::ROOT.account()),
            (None, Some(uid)) => Ok(Record {
                name: user.as_bytes(),
                uid,
                gid: 0,
                home: b"/",
                shell: FALLBACK_SHELL,
            }
            .account()),
            (None, None) => Err(unknown("user", user)),
        }
    }

    fn group(&self, group: &str) -> Result<Gid, Refusal> {
        let mut records = self
            .group
            .split(|byte| *byte == b'\n')
            .filter_map(parse_group);
        records
            .find(|record| record.name == group.as_bytes())
            .map(|record| record.gid)
            .or_else(|| parse_id(group.as_bytes()))
            .map(Gid::from_raw)
            .ok_or_else(|| unknown("group", group))
    }

    fn groups_of(&self, name: &[u8], primary: Gid) -> Vec<Gid> {
        let mut groups = vec![primary];
        for record in self
            .group
            .split(|byte| *byte == b'\n')
            .filter_map(parse_group)
        {
            let gid = Gid::from_raw(record.gid);
            let is_member = record
                .members
                .split(|byte| *byte == b',')
                .any(|one| one == name);
            if is_member && !groups.contains(&gid) && groups.len() < MAX_GROUPS {
                groups.push(gid);
            }
        }
        groups
    }
}

/// One line of `/etc/passwd`.
struct Record<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
    shell: &'a [u8],
}

impl Record<'_> {
    const ROOT: Record<'static> = Record {
        name: b"root",
        uid: 0,
        gid: 0,
        home: b"/root",
        shell: FALLBACK_SHELL,
    };

    fn account(&self) -> Account {
        let shell_name = self
            .shell
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or(b"");
        let is_usable = self.shell.starts_with(b"/") && !REFUSING_SHELLS.contains(&shell_name);
        Account {
            credentials: Credentials {
                uid: Uid::from_raw(self.uid),
                gid: Gid::from_raw(self.gid),
                groups: Vec::new(),
            },
            name: self.name.to_vec(),
            home: if self.home.starts_with(b"/") {
                self.home.to_vec()
            } else {
                b"/".to_vec()
            },
            shell: if is_usable {
                self.shell.to_vec()
            } else {
                FALLBACK_SHELL.to_vec()
            },
        }
    }
}

fn parse_passwd(line: &[u8]) -> Option<Record<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| is_text(name))?;
    let uid = parse_id(fields.nth(1)?)?;
    let gid = parse_id(fields.next()?)?;
    let home = fields.nth(1)?;
    let shell = fields.next().unwrap_or(b"");
    (is_without_nul(home) && is_without_nul(shell)).then_some(Record {
        name,
        uid,
        gid,
        home,
        shell,
    })
}

struct GroupRecord<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

fn parse_group(line: &[u8]) -> Option<GroupRecord<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| is_text(name))?;
    let gid = parse_id(fields.nth(1)?)?;
    Some(GroupRecord {
        name,
        gid,
        members: fields.next().unwrap_or(b""),
    })
}

fn is_text(name: &[u8]) -> bool {
    !name.is_empty() && is_without_nul(name)
}

fn is_without_nul(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}

/// Parses a user or group number. The largest number means "no change" to the kernel
/// (setresuid(2)) and is nobody's.
fn parse_id(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

fn unknown(what: &str, name: &str) -> Refusal {
    let message = format!("the {what} {name:?} does not exist in the guest");
    refusal::refused(RefusalCode::UnknownUser, &message)
}

fn read_regular(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        // What was read before a failure is still better than nothing.
        let _ = file.take(MAX_FILE_BYTES).read_to_end(&mut content);
    }
    content
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(passwd: &str, group: &str) -> AccountFiles {
        AccountFiles {
            passwd: passwd.as_bytes().to_vec(),
            group: group.as_bytes().to_vec(),
        }
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken line\n\
        :x:9:9::/:/bin/sh\n\
        dev:x:1000:100:Dev,,,:/home/dev:/bin/zsh\n\
        www:x:33:33:www:/var/www:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nsudo:x:27:other,dev\nkvm:x:60:dev\n";

    #[test]
    fn name_gives_home_shell_and_supplementary_groups() {
        let account = files(PASSWD, GROUP).find(Some("dev")).expect("is there");
        assert_eq!(account.home, b"/home/dev");
        assert_eq!(account.shell, b"/bin/zsh");
        assert_eq!(
            account.credentials,
            Credentials {
                uid: Uid::from_raw(1000),
                gid: Gid::from_raw(100),
                groups: [100, 27, 60].map(Gid::from_raw).to_vec(),
            }
        );
    }

    #[test]
    fn number_finds_the_account_that_has_it() {
        let account = files(PASSWD, GROUP).find(Some("1000")).expect("is there");
        assert_eq!(account.name, b"dev");
    }

    #[test]
    fn number_without_account_is_legal() {
        let account = files(PASSWD, GROUP).find(Some("4000:50")).expect("legal");
        assert_eq!(account.home, b"/");
        assert_eq!(account.credentials.uid, Uid::from_raw(4000));
        assert_eq!(account.credentials.gid, Gid::from_raw(50));
    }

    #[test]
    fn group_by_name_replaces_the_primary_group() {
        let account = files(PASSWD, GROUP)
            .find(Some("dev:kvm"))
            .expect("is there");
        assert_eq!(account.credentials.gid, Gid::from_raw(60));
    }

    #[test]
    fn unknown_names_are_refused() {
        let accounts = files(PASSWD, GROUP);
        let user = accounts
            .find(Some("nobody-here"))
            .expect_err("no such user");
        let group = accounts
            .find(Some("dev:nothing"))
            .expect_err("no such group");
        assert_eq!(user.code, RefusalCode::UnknownUser);
        assert_eq!(group.code, RefusalCode::UnknownUser);
        assert!(user.message.contains("nobody-here"), "{}", user.message);
        assert!(group.message.contains("nothing"), "{}", group.message);
    }

    #[test]
    fn root_exists_without_account_files() {
        let account = files("", "").find(None).expect("root");
        assert_eq!(account.name, b"root");
        assert_eq!(account.home, b"/root");
        assert_eq!(account.shell, b"/bin/sh");
    }

    #[test]
    fn shell_that_refuses_logins_is_replaced() {
        let account = files(PASSWD, GROUP).find(Some("www")).expect("is there");
        assert_eq!(account.shell, b"/bin/sh");
    }

    #[test]
    fn number_that_means_no_change_to_the_kernel_is_nobody() {
        let refusal = files("", "").find(Some("4294967295")).expect_err("-1");
        assert_eq!(refusal.code, RefusalCode::UnknownUser);
    }

    proptest! {
        #[test]
        fn arbitrary_account_files_never_panic(
            passwd in proptest::collection::vec(any::<u8>(), 0..400),
            group in proptest::collection::vec(any::<u8>(), 0..400),
            user in "[a-z0-9:]{0,12}",
        ) {
            let _result = AccountFiles { passwd, group }.find(Some(&user));
        }
    }
}
