//! The table of rows, and which row a request means. Rows are written by `api`; the desk looks
//! them up. Never looks at bodies or at who is calling.

use std::sync::Arc;

use super::call::Call;
use super::reply::Answer;
use crate::limits::HTTP_BODY_BYTES_MAX;

/// Methods that rows have. HEAD runs the row of `Get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    pub(super) fn from_text(text: &str) -> Option<Method> {
        match text {
            "GET" | "HEAD" => Some(Method::Get),
            "POST" => Some(Method::Post),
            "PUT" => Some(Method::Put),
            "DELETE" => Some(Method::Delete),
            _ => None,
        }
    }

    fn allow_text(self) -> &'static str {
        match self {
            Method::Get => "GET, HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// Who may call a row (design D13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The host, local users, allowed addresses, holders of the token.
    Users,
    /// Anybody who can reach the port: the handler checks the workload's address and secret.
    Workload,
}

/// Which workers run a row, and how long it may park.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Any worker but the reserved ones.
    Quick,
    /// Any worker. For what must work when everything else is stuck: execute, kill, health.
    Urgent,
    /// As `Quick`, and it parks: its answer may take as long as an image pull.
    Slow,
}

/// One row of the table.
pub struct Route<C: 'static> {
    pub method: Method,
    /// Literal segments and `{name}` ones. Where two rows fit, the one with the earlier literal wins.
    pub path: &'static str,
    pub run: fn(&Arc<C>, Call) -> Answer,
    pub body_bytes_max: usize,
    pub audience: Audience,
    pub pace: Pace,
    /// Only for requests that ask for a WebSocket.
    pub is_socket: bool,
}

/// A row for GET and HEAD.
pub const fn get<C>(path: &'static str, run: fn(&Arc<C>, Call) -> Answer) -> Route<C> {
    row(Method::Get, path, run)
}

/// A row for POST.
pub const fn post<C>(path: &'static str, run: fn(&Arc<C>, Call) -> Answer) -> Route<C> {
    row(Method::Post, path, run)
}

/// A row for PUT.
pub const fn put<C>(path: &'static str, run: fn(&Arc<C>, Call) -> Answer) -> Route<C> {
    row(Method::Put, path, run)
}

/// A row for DELETE.
pub const fn delete<C>(path: &'static str, run: fn(&Arc<C>, Call) -> Answer) -> Route<C> {
    row(Method::Delete, path, run)
}

/// A row for WebSockets: its handler answers with a session, or refuses the handshake.
pub const fn socket<C>(path: &'static str, run: fn(&Arc<C>, Call) -> Answer) -> Route<C> {
    let mut socket = row(Method::Get, path, run);
    socket.is_socket = true;
    socket
}

const fn row<C>(method: Method, path: &'static str, run: fn(&Arc<C>, Call) -> Answer) -> Route<C> {
    let (audience, pace) = (Audience::Users, Pace::Quick);
    let (body_bytes_max, is_socket) = (HTTP_BODY_BYTES_MAX, false);
    Route { method, path, run, body_bytes_max, audience, pace, is_socket }
}

impl<C> Route<C> {
    /// Takes bodies up to `bytes` instead of the usual limit.
    pub const fn body_max(mut self, bytes: usize) -> Route<C> {
        self.body_bytes_max = bytes;
        self
    }

    /// Lets `audience` call it.
    pub const fn audience(mut self, audience: Audience) -> Route<C> {
        self.audience = audience;
        self
    }

    /// May use the reserved workers.
    pub const fn urgent(mut self) -> Route<C> {
        self.pace = Pace::Urgent;
        self
    }

    /// Parks for as long as an order may take.
    pub const fn slow(mut self) -> Route<C> {
        self.pace = Pace::Slow;
        self
    }
}

/// A row without its handler: what the desk needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Place in the table.
    pub index: usize,
    pub method: Method,
    pub path: &'static str,
    pub body_bytes_max: usize,
    pub audience: Audience,
    pub pace: Pace,
    pub is_socket: bool,
}

impl Row {
    /// Its methods, for `Allow`. A HEAD can open no WebSocket.
    pub fn allow_text(&self) -> &'static str {
        if self.is_socket { "GET" } else { self.method.allow_text() }
    }
}

/// Values of the `{name}` segments, as they stand in the path.
pub(super) type Params<'a> = Vec<(&'static str, &'a str)>;

/// What a path means.
#[derive(Debug)]
pub(super) enum Found<'t, 'p> {
    Row(&'t Row, Params<'p>),
    /// Rows have the path, none of them this method; the text is for `Allow`.
    OtherMethods(String),
    Nothing,
}

/// The rows in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Table(Vec<Row>);

impl Table {
    pub fn of<C>(routes: &'static [Route<C>]) -> Table {
        let mut rows: Vec<Row> = routes
            .iter()
            .enumerate()
            .map(|(index, route)| Row {
                index,
                method: route.method,
                path: route.path,
                body_bytes_max: route.body_bytes_max,
                audience: route.audience,
                pace: route.pace,
                is_socket: route.is_socket,
            })
            .collect();
        // False sorts before true: at the first difference the literal segment comes first.
        rows.sort_by_key(|row| {
            row.path.split('/').map(|segment| name(segment).is_some()).collect::<Vec<_>>()
        });
        Table(rows)
    }

    pub fn find<'p>(&self, method: Option<Method>, path: &'p str) -> Found<'_, 'p> {
        let mut others = Vec::new();
        for row in &self.0 {
            let Some(params) = fit(row.path, path) else { continue };
            if Some(row.method) == method {
                return Found::Row(row, params);
            }
            if !others.contains(&row.allow_text()) {
                others.push(row.allow_text());
            }
        }
        if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others.join(", ")) }
    }
}

/// The parameters of `path` if it has the shape of `pattern`. A parameter is never empty.
fn fit<'p>(pattern: &'static str, path: &'p str) -> Option<Params<'p>> {
    let mut params = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(params),
            (Some(segment), Some(value)) => match name(segment) {
                Some(name) if !value.is_empty() => params.push((name, value)),
                None if segment == value => {}
                _ => return None,
            },
            _ => return None,
        }
    }
}

fn name(segment: &'static str) -> Option<&'static str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::serve::reply::Reply;

    fn nothing(_: &Arc<()>, _: Call) -> Answer {
        Answer::Now(Reply::text(200, ""))
    }

    static ROUTES: &[Route<()>] = &[
        get("/api/tasks/{id}", nothing),
        delete("/api/tasks/{id}", nothing),
        get("/api/tasks/newest", nothing),
        get("/api/tasks/{id}/logs/{stream}", nothing).slow(),
        post("/api/execute", nothing).urgent().body_max(7),
    ];

    fn found(method: Method, path: &str) -> Option<(usize, Params<'_>)> {
        match Table::of(ROUTES).find(Some(method), path) {
            Found::Row(row, params) => Some((row.index, params)),
            Found::OtherMethods(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn path_with_names_gives_their_values() {
        let (index, params) = found(Method::Get, "/api/tasks/7/logs/stdout").unwrap();
        assert_eq!((index, params), (3, vec![("id", "7"), ("stream", "stdout")]));
    }

    #[test]
    fn literal_row_wins_over_a_name_wherever_it_stands() {
        assert_eq!(found(Method::Get, "/api/tasks/newest").unwrap().0, 2);
        assert_eq!(found(Method::Get, "/api/tasks/oldest").unwrap().0, 0);
    }

    #[test]
    fn path_of_another_shape_is_nothing() {
        assert!(found(Method::Get, "/api/tasks/").is_none());
        assert!(found(Method::Get, "/api/tasks/7/").is_none());
        assert!(found(Method::Get, "api/tasks/7").is_none());
    }

    #[test]
    fn wrong_method_tells_the_right_ones() {
        let table = Table::of(ROUTES);
        let Found::OtherMethods(allow) = table.find(Some(Method::Put), "/api/tasks/7") else {
            panic!("a row for PUT")
        };
        assert_eq!(allow, "GET, HEAD, DELETE");
    }
}
