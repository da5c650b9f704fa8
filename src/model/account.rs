//! Who a container's `USER` is, by the container's own `/etc/passwd` and `/etc/group`: the rules of
//! `docker exec` without `--user`. Texts in, numbers out.

/// Numbers as the container counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Groups beside `gid`.
    pub groups: Vec<u32>,
}

/// One line of `passwd`.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// One line of `group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Account {
    /// `user` as an image has it: empty, `name`, `uid`, and either with `:group` or `:gid`. `None`
    /// for names that the files do not have.
    pub fn find(user: &str, passwd: &str, group: &str) -> Option<Account> {
        let (user, wanted_group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<u32>().ok();
        let known = users(passwd).find(|known| known.name == user || Some(known.uid) == number);
        let (uid, own_gid) = match &known {
            Some(known) => (known.uid, known.gid),
            None => (number?, 0),
        };
        let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) else {
            let name = known.map_or("", |known| known.name);
            let is_member = |group: &Group| group.members.split(',').any(|member| member == name);
            let groups = groups(group).filter(|group| !name.is_empty() && is_member(group));
            return Some(Account {
                uid,
                gid: own_gid,
                groups: groups.map(|group| group.gid).collect(),
            });
        };
        let named = groups(group).find(|known| known.name == wanted).map(|known| known.gid);
        let gid = named.or_else(|| wanted.parse().ok())?;
        Some(Account { uid, gid, groups: Vec::new() })
    }

    /// The name of user `uid`.
    pub fn name_of(uid: u32, passwd: &str) -> Option<&str> {
        users(passwd).find(|known| known.uid == uid).map(|known| known.name)
    }
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { name, uid, gid })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default().trim() })
    })
}

#[cfg(test)]
mod test {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nworker:x:1000:1001::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:worker,other\nlast:x:51:other,worker\n";

    fn found(user: &str) -> Option<(u32, u32, Vec<u32>)> {
        let account = Account::find(user, PASSWD, GROUP)?;
        Some((account.uid, account.gid, account.groups))
    }

    #[test]
    fn user_is_found_in_every_spelling() {
        assert_eq!(found(""), Some((0, 0, vec![])));
        assert_eq!(found("worker"), Some((1000, 1001, vec![50, 51])));
        assert_eq!(found("1000"), Some((1000, 1001, vec![50, 51])));
        assert_eq!(found("7"), Some((7, 0, vec![])));
        assert_eq!(found("7:8"), Some((7, 8, vec![])));
        assert_eq!(found("worker:staff"), Some((1000, 50, vec![])));
        assert_eq!(found("worker:"), Some((1000, 1001, vec![50, 51])));
    }

    #[test]
    fn names_that_the_files_do_not_have_are_nobody() {
        assert_eq!(found("ghost"), None);
        assert_eq!(found("worker:ghosts"), None);
        assert_eq!(Account::find("", "", "").unwrap().uid, 0);
        assert_eq!(Account::name_of(1000, PASSWD), Some("worker"));
        assert_eq!(Account::name_of(7, PASSWD), None);
    }
}
