//! The shell script a VPS runs (contract 5.4, 5.5). Pure text; needs `/bin/sh` of the image and, for
//! SSH, an sshd or a package manager that brings one.
//!
//! sshd gets its rules as options: they count before those of the image's `sshd_config`, and nothing is
//! written there. What is written (a key, root's password taken away) is written once: a mark in the
//! container says so, and a snapshot carries the mark along.

use super::script::quote;
use super::vps::Login;

/// How the script ends when SSH can't be set up; its last line says why.
pub const SETUP_FAILED_EXIT_CODE: i64 = 97;
/// Begins each line of the script's own.
pub const SAYS: &str = "river-runner: ";

/// The text after `/bin/sh -c`.
pub fn setup_script(login: &Login) -> String {
    let (rules, once) = match login {
        Login::Disabled => return IDLE.to_owned(),
        Login::Kept => ("", String::new()),
        Login::Open => (
            "-o PermitRootLogin=yes -o PasswordAuthentication=yes -o PermitEmptyPasswords=yes \
             -o UsePAM=no",
            "without_password".to_owned(),
        ),
        Login::Key(key) => (
            "-o PermitRootLogin=yes -o PasswordAuthentication=no \
             -o ChallengeResponseAuthentication=no -o AuthorizedKeysFile=.ssh/authorized_keys",
            format!("authorize {}", quote(key.as_str())),
        ),
    };
    let once = if once.is_empty() { ":" } else { once.as_str() };
    format!("{SETUP}{once} || fail 'the login could not be set up'\n{START}{rules}\n")
}

/// Waits until it is stopped. In the foreground a `sleep` would keep the signal waiting.
const IDLE: &str = "trap 'exit 0' TERM INT\nwhile :; do sleep 3600 & wait $!; done\n";

const SETUP: &str = r#"say() { echo "river-runner: $*" >&2; }
fail() { say "$*"; exit 97; }
has() { command -v "$1" >/dev/null 2>&1; }
find_sshd() {
    for sshd in /usr/sbin/sshd /usr/local/sbin/sshd /sbin/sshd /usr/bin/sshd "$(command -v sshd)"; do
        [ -n "$sshd" ] && [ -x "$sshd" ] && return 0
    done
    return 1
}
add_sshd() {
    if has apt-get; then
        say 'installing openssh-server with apt-get'
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q -o Acquire::http::Timeout=20 -o Acquire::Retries=1 update >&2
        apt-get -q install -y --no-install-recommends openssh-server >&2
    elif has apk; then
        say 'installing openssh with apk'
        apk add --no-cache openssh >&2
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
        zypper --non-interactive refresh >&2 && zypper --non-interactive install openssh >&2
    elif has pacman; then
        say 'installing openssh with pacman'
        pacman -Sy --noconfirm openssh >&2
    else
        fail 'the image has no sshd and none of apt-get, apk, dnf, microdnf, yum, zypper and pacman'
    fi
}
mark=/etc/river-runner/login-is-set-up
authorize() {
    keys=/root/.ssh/authorized_keys
    mkdir -p /root/.ssh && chmod 700 /root/.ssh || return 1
    if [ -e "$mark" ]; then
        while IFS= read -r line; do [ "$line" = "$1" ] && return 0; done <"$keys" 2>/dev/null
        (umask 077 && printf '%s\n' "$1" >>"$keys") && return 0
        return 1
    fi
    (umask 077 && printf '%s\n' "$1" >"$keys") && chmod 600 "$keys" && unlock '*'
}
without_password() {
    [ -e "$mark" ] || unlock ''
}
# A locked root can't log in at all; what stands for its password is put in the place of the lock.
unlock() {
    [ -e /etc/shadow ] || return 0
    new=
    while IFS= read -r line || [ -n "$line" ]; do
        case "$line" in
            root:*)
                rest=${line#root:}
                field=${rest%%:*}
                case "$1$field" in
                    '*'[!!]* | '*') ;;
                    *) line="root:$1:${rest#*:}" ;;
                esac
                ;;
        esac
        new="$new$line
"
    done </etc/shadow
    (umask 077 && printf '%s' "$new" >/etc/shadow)
}
find_sshd || add_sshd || fail 'no sshd is in the image, and it could not be installed'
find_sshd || fail 'no sshd is there after it was installed'
has ssh-keygen || fail 'the image has an sshd and no ssh-keygen for its host keys'
ssh-keygen -A >&2 || fail 'no host keys could be made'
mkdir -p /run/sshd && chmod 755 /run/sshd || fail '/run/sshd could not be made'
"#;

const START: &str = r#"mkdir -p /etc/river-runner && : >"$mark" || fail 'its mark could not be written'
say "starting $sshd"
exec "$sshd" -D -e "#;

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;
    use crate::model::vps::PublicKey;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKrDTWAmNWDHwoCTMEcmZxWjkh1jtN3TlCqGTFhnTA it's";

    #[test]
    fn every_script_is_one_for_a_shell() {
        let key = Login::Key(PublicKey::parse(KEY).unwrap());
        for login in [Login::Disabled, Login::Open, key, Login::Kept] {
            let script = setup_script(&login);
            let checked = Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
            assert!(checked.success(), "{script}");
        }
    }

    #[test]
    fn rules_go_with_the_login() {
        assert!(setup_script(&Login::Open).contains("PermitEmptyPasswords=yes"));
        let key = setup_script(&Login::Key(PublicKey::parse(KEY).unwrap()));
        assert!(key.contains("PasswordAuthentication=no") && !key.contains("PermitEmpty"));
        assert!(key.contains(r"authorize 'ssh-ed25519") && key.contains(r"it'\''s'"));
        let kept = setup_script(&Login::Kept);
        assert!(!kept.contains(" -o ") || kept.matches("-o Permit").count() == 0);
        assert!(!setup_script(&Login::Disabled).contains("sshd"));
    }
}
