//! The shell script a VPS runs (contract 5.4, 5.5). Pure text; needs `/bin/sh` of the image with `cp`,
//! `mv`, `mkdir` and `chmod`, and, for SSH, an sshd or a package manager that brings one.
//!
//! sshd gets its rules as options: they count before those of the image's `sshd_config`, and nothing is
//! written there. What is written (a key, root's password taken away) is written once: a mark in the
//! container tells for which VPS and login, and a snapshot carries the mark along. So a key that its
//! owner has taken out, or a password that he has set, stays as he left it.

use super::ids::TaskId;
use super::script::quote;
use super::vps::Login;

/// How the script ends when SSH can't be set up.
pub const SETUP_FAILED_EXIT_CODE: i64 = 97;
/// Begins each line of the script's own.
pub const SAYS: &str = "river-runner: ";
/// Begins the last of them in that case; the rest of it says why.
pub const SAYS_WHY: &str = "river-runner: failed: ";

/// The text after `/bin/sh -c`.
pub fn setup_script(id: TaskId, login: &Login) -> String {
    let (rules, once) = match login {
        Login::Disabled => return format!("{IDLE}idle\n"),
        // Whoever had no sshd gets none.
        Login::Kept => return format!("{IDLE}{FIND}find_sshd || idle\n{START}"),
        Login::Open => (
            "-p 22 -o PermitRootLogin=yes -o PasswordAuthentication=yes \
             -o PermitEmptyPasswords=yes -o UsePAM=no",
            "without_password".to_owned(),
        ),
        Login::Key(key) => (
            "-p 22 -o PermitRootLogin=yes -o PasswordAuthentication=no \
             -o ChallengeResponseAuthentication=no -o AuthorizedKeysFile=.ssh/authorized_keys",
            format!("authorize {}", quote(key.as_str())),
        ),
    };
    let mark = format!("mark=/etc/river-runner/login-of-{id}\n");
    format!(
        "set -- {rules}\n{FIND}{ADD}{mark}{LOGIN}{once} || fail 'the login could not be set up'\n{START}"
    )
}

/// Waits until it is stopped. In the foreground a `sleep` would keep the signal waiting.
const IDLE: &str = r#"idle() {
    trap 'exit 0' TERM INT
    while :; do
        sleep 3600 &
        wait $!
    done
}
"#;

const FIND: &str = r#"say() { echo "river-runner: $*" >&2; }
fail() {
    say "failed: $*"
    exit 97
}
has() { command -v "$1" >/dev/null 2>&1; }
find_sshd() {
    for sshd in /usr/sbin/sshd /usr/local/sbin/sshd /sbin/sshd /usr/bin/sshd "$(command -v sshd)"; do
        [ -n "$sshd" ] && [ -x "$sshd" ] && return 0
    done
    return 1
}
"#;

/// apt alone goes on trying, and alone says that lists it could not fetch are no failure. An installation
/// that an end of the container has broken off leaves a mark, and is done again: an sshd may be there and
/// not work. Whoever held the manager's locks is gone with the container's last run. dpkg does not go on
/// with a package that was broken off while it was unpacked: that has to go before apt brings it again.
const ADD: &str = r#"limited() {
    if has timeout; then timeout 300 "$@"; else "$@"; fi
}
mend_dpkg() {
    dpkg --configure -a >&2 && return
    dpkg-query -W -f '${db:Status-Eflag} ${binary:Package}\n' | while read -r flag package; do
        [ "$flag" != reinstreq ] || dpkg --remove --force-remove-reinstreq --force-depends "$package" >&2
    done
    is_broken=yes
}
add_sshd() {
    if has apt-get; then
        say 'installing openssh-server with apt-get'
        export DEBIAN_FRONTEND=noninteractive
        is_broken=
        [ -z "$was_broken_off" ] || mend_dpkg
        set -- -q -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 -o Acquire::Retries=1
        limited apt-get "$@" update >&2
        set -- "$@" install -y --no-install-recommends
        [ -z "$is_broken" ] || apt-get "$@" --fix-broken >&2
        apt-get "$@" openssh-server >&2
    elif has apk; then
        say 'installing openssh with apk'
        limited apk add --no-cache openssh >&2
    elif has dnf; then
        say 'installing openssh-server with dnf'
        dnf install -y openssh-server >&2
    elif has microdnf; then
        say 'installing openssh-server with microdnf'
        microdnf install -y openssh-server >&2
    elif has yum; then
        say 'installing openssh-server with yum'
        yum install -y openssh-server >&2
    elif has zypper; then
        say 'installing openssh with zypper'
        limited zypper --non-interactive refresh >&2
        zypper --non-interactive install openssh >&2
    elif has pacman; then
        say 'installing openssh with pacman'
        rm -f /var/lib/pacman/db.lck
        pacman -Sy --noconfirm openssh >&2
    else
        fail 'the image has no sshd and none of apt-get, apk, dnf, microdnf, yum, zypper and pacman'
    fi
}
adding=/etc/river-runner/adding-sshd
was_broken_off=
[ ! -e "$adding" ] || was_broken_off=yes
if [ -n "$was_broken_off" ] || ! find_sshd; then
    mkdir -p "${adding%/*}" && : >"$adding" || fail "$adding could not be written"
    add_sshd || fail 'no sshd is in the image, and it could not be installed'
    rm -f "$adding"
fi
find_sshd || fail 'no sshd is there after it was installed'
"#;

const LOGIN: &str = r#"set_up=
if [ -e "$mark" ]; then IFS= read -r set_up <"$mark"; fi
now_set_up() {
    mkdir -p /etc/river-runner && printf '%s\n' "$1" >"$mark"
}
# Root's line of a file like /etc/passwd, in its fields; the sixth of that one is its home.
root_line() {
    while IFS=: read -r name password uid gid full home shell || [ -n "$name" ]; do
        [ "$name" = root ] && return 0
    done <"$1"
    return 1
}
authorize() {
    [ "$set_up" = "$1" ] && return 0
    root_line /etc/passwd || home=/root
    keys=${home:-/root}/.ssh/authorized_keys
    mkdir -p "${keys%/*}" && chmod 700 "${keys%/*}" || return 1
    if [ -n "$set_up" ] && [ -e "$keys" ]; then
        (umask 077 && printf '\n%s\n' "$1" >>"$keys") || return 1
    else
        (umask 077 && printf '%s\n' "$1" >"$keys") && chmod 600 "$keys" || return 1
    fi
    # A locked root can't log in at all, not by a key either.
    if [ -e /etc/shadow ] && root_line /etc/shadow; then
        case $password in !*) root_password /etc/shadow '*' || return 1 ;; esac
    fi
    now_set_up "$1"
}
without_password() {
    [ "$set_up" = open ] && return 0
    if [ -e /etc/shadow ] && root_line /etc/shadow; then
        [ -z "$password" ] || root_password /etc/shadow '' || return 1
    elif root_line /etc/passwd; then
        [ -z "$password" ] || root_password /etc/passwd '' || return 1
    fi
    now_set_up open
}
# Puts $2 in the place of root's password in the file $1. The copy has its owner and mode, and takes
# its place whole.
root_password() {
    cp -p "$1" "$1.river-runner" && {
        while IFS= read -r line; do
            put_line "$2" && echo_line || return 1
        done
        put_line "$2" && printf '%s' "$line"
    } <"$1" >"$1.river-runner" && [ -s "$1.river-runner" ] && mv -f "$1.river-runner" "$1"
}
put_line() {
    case $line in
        root:*:*)
            line=${line#root:}
            line=root:$1:${line#*:}
            ;;
    esac
}
echo_line() { printf '%s\n' "$line"; }
"#;

/// sshd's arguments are the script's. One that would end at once says why before it is begun.
const START: &str = r#"has ssh-keygen || fail 'the image has an sshd and no ssh-keygen for its host keys'
ssh-keygen -A >&2 || fail 'no host keys could be made'
mkdir -p /run/sshd && chmod 755 /run/sshd || fail '/run/sshd could not be made'
"$sshd" -t "$@" >&2 || fail 'sshd refuses its settings'
say "starting $sshd"
exec "$sshd" -D -e "$@"
"#;

#[cfg(test)]
mod test {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::model::vps::PublicKey;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKrDTWAmNWDHwoCTMEcmZxWjkh1jtN3TlCqGTFhnTA it's";

    fn id() -> TaskId {
        TaskId::from_wire(7).unwrap()
    }

    fn key() -> Login {
        Login::Key(PublicKey::parse(KEY).unwrap())
    }

    /// The shells that are here: a program and what precedes `-c`.
    fn shells() -> Vec<Vec<&'static str>> {
        let all = [vec!["sh"], vec!["dash"], vec!["bash", "--posix"], vec!["busybox", "sh"]];
        let runs = |shell: &Vec<&str>| {
            let mut command = Command::new(shell[0]);
            command.args(&shell[1..]).args(["-c", ":"]).status().is_ok_and(|s| s.success())
        };
        all.into_iter().filter(runs).collect()
    }

    /// The login's part of the script alone, below a root of its own.
    fn set_up(shell: &[&str], root: &Path, login: &Login) -> bool {
        let script = setup_script(id(), login);
        let begin = script.find("mark=").unwrap();
        let end = script.find("has ssh-keygen").unwrap();
        let script = script[begin..end].replace("|| fail 'the login could not be set up'", "");
        let script = script.replace("/etc/", &format!("{}/etc/", root.display()));
        let script = script.replace("${home:-", &format!("{}/${{home:-", root.display()));
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &script]).status().unwrap().success()
    }

    fn a_root(shadow: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/river-runner")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/home/root:/bin/sh\n").unwrap();
        fs::write(root.path().join("etc/shadow"), shadow).unwrap();
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(root.path().join("etc/shadow"), mode).unwrap();
        root
    }

    fn read(root: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(root.path().join(name)).unwrap()
    }

    const KEYS: &str = "home/root/.ssh/authorized_keys";

    #[test]
    fn every_script_is_one_for_every_shell() {
        for login in [Login::Disabled, Login::Open, key(), Login::Kept] {
            let script = setup_script(id(), &login);
            for shell in shells() {
                let mut command = Command::new(shell[0]);
                let checked = command.args(&shell[1..]).args(["-n", "-c", &script]).status();
                assert!(checked.unwrap().success(), "{shell:?}: {script}");
            }
        }
    }

    #[test]
    fn rules_go_with_the_login() {
        assert!(setup_script(id(), &Login::Open).contains("PermitEmptyPasswords=yes"));
        let by_key = setup_script(id(), &key());
        assert!(by_key.contains("PasswordAuthentication=no") && !by_key.contains("PermitEmpty"));
        assert!(by_key.contains(r"authorize 'ssh-ed25519") && by_key.contains(r"it'\''s'"));
        let kept = setup_script(id(), &Login::Kept);
        assert!(!kept.contains("-o ") && !kept.contains("install"));
        assert!(!setup_script(id(), &Login::Disabled).contains("sshd"));
    }

    #[test]
    fn password_of_root_goes_and_every_other_byte_stays() {
        let others = "daemon:*:1:\\0 $(id) `id`:\n  odd line\t\n\nrooted:!:2::\nlast:x:3";
        for shell in shells() {
            for (field, login, want) in [
                ("*", Login::Open, ""),
                ("!", Login::Open, ""),
                ("$6$salt$hash", Login::Open, ""),
                ("", Login::Open, ""),
                ("!", key(), "*"),
                ("!$6$salt$hash", key(), "*"),
                ("*", key(), "*"),
                ("", key(), ""),
                ("$6$salt$hash", key(), "$6$salt$hash"),
            ] {
                let root = a_root(&format!("root:{field}:19000:0:99999:7:::\n{others}"));
                assert!(set_up(&shell, root.path(), &login), "{shell:?}");
                let shadow = read(&root, "etc/shadow");
                assert_eq!(
                    shadow,
                    format!("root:{want}:19000:0:99999:7:::\n{others}"),
                    "{shell:?}"
                );
                let mode = fs::metadata(root.path().join("etc/shadow")).unwrap().permissions();
                assert_eq!(mode.mode() & 0o777, 0o640);
                assert!(!root.path().join("etc/shadow.river-runner").exists());
            }
        }
    }

    #[test]
    fn without_a_shadow_file_the_password_goes_from_passwd() {
        for shell in shells() {
            let root = a_root("");
            fs::remove_file(root.path().join("etc/shadow")).unwrap();
            assert!(set_up(&shell, root.path(), &Login::Open), "{shell:?}");
            assert_eq!(read(&root, "etc/passwd"), "root::0:0:root:/home/root:/bin/sh\n");
        }
    }

    #[test]
    fn password_that_was_set_later_stays() {
        for shell in shells() {
            let root = a_root("root:*:1::::::\n");
            assert!(set_up(&shell, root.path(), &Login::Open));
            fs::write(root.path().join("etc/shadow"), "root:$6$new:1::::::\n").unwrap();
            assert!(set_up(&shell, root.path(), &Login::Open), "{shell:?}");
            assert_eq!(read(&root, "etc/shadow"), "root:$6$new:1::::::\n");
        }
    }

    #[test]
    fn key_is_written_once_and_other_keys_stay() {
        for shell in shells() {
            let root = a_root("root:*:1::::::\n");
            fs::create_dir_all(root.path().join("home/root/.ssh")).unwrap();
            fs::write(root.path().join(KEYS), "a key of the image\n").unwrap();
            assert!(set_up(&shell, root.path(), &key()), "{shell:?}");
            assert_eq!(read(&root, KEYS), format!("{KEY}\n"));
            // Its owner takes it out and adds another, without an end of line.
            fs::write(root.path().join(KEYS), "mine").unwrap();
            assert!(set_up(&shell, root.path(), &key()));
            assert_eq!(read(&root, KEYS), "mine");
            // Another key is asked for.
            let other = Login::Key(PublicKey::parse(&format!("{KEY} 2")).unwrap());
            assert!(set_up(&shell, root.path(), &other));
            assert_eq!(read(&root, KEYS), format!("mine\n{KEY} 2\n"), "{shell:?}");
        }
    }

    #[test]
    fn shadow_that_can_t_be_written_anew_stays_whole() {
        for shell in shells() {
            let root = a_root("root:*:1::::::\nlast:x:3");
            // In the way of the copy.
            fs::create_dir_all(root.path().join("etc/shadow.river-runner/shadow")).unwrap();
            assert!(!set_up(&shell, root.path(), &Login::Open), "{shell:?}");
            assert_eq!(read(&root, "etc/shadow"), "root:*:1::::::\nlast:x:3");
        }
    }
}
