//! The tuned kernel's configuration: a fragment, and whether a kernel's source took all of it.

/// The lines that make the tuned kernel of `make allnoconfig`.
pub(super) const FRAGMENT: &str = include_str!("../../../../guest/kernel.config");

/// Returns the lines of `fragment` that `config`, which was made of it, does not have.
///
/// kconfig leaves out what it does not know or what depends on something that is missing, without
/// a word. A line that is neither an option nor a comment is one of those, too.
pub(super) fn not_taken<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = config.lines().collect();
    let is_taken = |line: &str| {
        if let Some(option) = unset_option(line) {
            let setting = format!("{option}=");
            return !lines.iter().any(|line| line.starts_with(&setting));
        }
        line.is_empty() || line.starts_with('#') || lines.contains(&line)
    };
    let wanted = fragment.lines().map(str::trim);
    wanted.filter(|line| !is_taken(line)).collect()
}

/// Returns the option of a line `# CONFIG_… is not set`, as kconfig writes it.
fn unset_option(line: &str) -> Option<&str> {
    let option = line.strip_prefix("# ")?.strip_suffix(" is not set")?;
    option.starts_with("CONFIG_").then_some(option)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CONFIG: &str = "#\n# Automatically generated file; DO NOT EDIT.\n#\n\
                          CONFIG_64BIT=y\n# CONFIG_PCI is not set\nCONFIG_NR_CPUS=32\n\
                          CONFIG_LOCALVERSION=\"-smolvm\"\nCONFIG_VT=y\nCONFIG_VT_CONSOLE=y\n";

    #[test]
    fn lines_that_took_effect_and_comments_are_no_complaint() {
        let fragment = "# Why so.\nCONFIG_64BIT=y\n\n# CONFIG_PCI is not set\n\
                        # CONFIG_USB is not set\nCONFIG_NR_CPUS=32\n\
                        CONFIG_LOCALVERSION=\"-smolvm\"\n";
        assert_eq!(not_taken(fragment, CONFIG), Vec::<&str>::new());
    }

    #[test]
    fn lines_without_effect_are_named() {
        let fragment = "CONFIG_64BIT=y\nCONFIG_PCI=y\n# CONFIG_VT is not set\n\
                        CONFIG_NR_CPUS=3\nCONFIG_NO_SUCH_OPTION=y\nCONFG_TYPO=y\n";
        assert_eq!(
            not_taken(fragment, CONFIG),
            [
                "CONFIG_PCI=y",
                "# CONFIG_VT is not set",
                "CONFIG_NR_CPUS=3",
                "CONFIG_NO_SUCH_OPTION=y",
                "CONFG_TYPO=y"
            ]
        );
    }

    #[test]
    fn our_fragment_builds_everything_in_and_names_nothing_twice() {
        let mut names = BTreeSet::new();
        for line in FRAGMENT.lines().filter(|line| !line.is_empty()) {
            let option = match (unset_option(line), line.split_once('=')) {
                (Some(option), _) => option,
                (None, _) if line.starts_with('#') => continue,
                (None, Some((option, value))) => {
                    assert_ne!(value, "m", "{line}");
                    option
                }
                (None, None) => panic!("{line:?} is no line of a configuration"),
            };
            assert!(names.insert(option), "{option} is named twice");
        }
        assert!(names.contains("CONFIG_PVH"));
    }
}
