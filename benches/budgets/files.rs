//! Files inside a running container: the runner's rows, the programs that the Python runner starts
//! there, and the Engine's archive calls in turn, round after round.

use std::time::Instant;

use serde_json::json;

use crate::budget::{Figures, median};
use crate::exec;
use crate::place::Place;
use crate::runner::{InContainer, Runner};

const ENTRIES: usize = 1000;
const BIG_BYTES: usize = 10_000_000;

/// Milliseconds of each round, by three ways.
#[derive(Default)]
struct Ways {
    ours: Vec<f64>,
    exec: Vec<f64>,
    archive: Vec<f64>,
}

pub fn run(place: &Place, figures: &mut Figures) {
    let runner = Runner::start(place, None);
    let task = InContainer::start(&runner, &place.environment());
    let container = task.container();
    let mut http = runner.connect();
    let rows = format!("/api/fs/{}", task.id);
    let script = "mkdir /many; i=0; while [ $i -lt 1000 ]; do : > /many/file-$i; i=$((i+1)); done";
    exec::output(&container, &["sh", "-c", script]);
    // Text, as most files that are read in an editor; compressible to nothing, as nothing compresses.
    let content = "0123456789abcde\n".repeat(BIG_BYTES / 16);

    let [mut list, mut stat, mut read, mut write] = [(); 4].map(|()| Ways::default());
    for _ in 0..place.pick(15, 1) {
        let body = json!({ "path": "/big-ours", "content": content });
        let mut get =
            |row: &str| http.call("GET", &format!("{rows}/{row}"), None).expect("an answer");

        list.ours.push(ms(|| {
            let listed = get("list?path=/many").expect(200);
            assert_eq!(listed["entries"].as_array().map(Vec::len), Some(ENTRIES));
        }));
        list.exec.push(ms(|| drop(exec::output(&container, &["ls", "-la", "/many"]))));
        list.archive.push(ms(|| drop(exec::fetch(&container, "/many"))));

        stat.ours.push(ms(|| drop(get("stat?path=/many/file-7").expect(200))));
        stat.exec.push(ms(|| drop(exec::output(&container, &["stat", "/many/file-7"]))));
        stat.archive.push(ms(|| drop(exec::fetch(&container, "/many/file-7"))));

        write.ours.push(ms(|| {
            let answer = http.call("POST", &format!("{rows}/write"), Some(&body));
            assert_eq!(answer.expect("an answer").expect(200)["size"], BIG_BYTES);
        }));
        let writer = ["sh", "-c", "cat > /big-exec"];
        write.exec.push(ms(|| exec::feed(&container, &writer, content.as_bytes())));
        write.archive.push(ms(|| exec::put(&container, "big-archive", content.as_bytes())));

        let mut get =
            |row: &str| http.call("GET", &format!("{rows}/{row}"), None).expect("an answer");
        read.ours.push(ms(|| {
            assert_eq!(get("read?path=/big-ours").expect(200)["size"], BIG_BYTES);
        }));
        read.exec.push(ms(|| {
            assert!(exec::output(&container, &["cat", "/big-exec"]).len() > BIG_BYTES);
        }));
        read.archive.push(ms(|| drop(exec::fetch(&container, "/big-exec"))));
    }
    for (name, ways) in [("list", list), ("stat", stat), ("read", read), ("write", write)] {
        let ours = rate(ways.ours);
        figures.tell_beside(&format!("files_{name}"), ours, rate(ways.exec));
        figures.tell_beside(&format!("files_{name}_archive"), ours, rate(ways.archive));
    }
}

fn ms(work: impl FnOnce()) -> f64 {
    let since = Instant::now();
    work();
    since.elapsed().as_secs_f64() * 1e3
}

/// Times in a second, by the median.
fn rate(rounds_ms: Vec<f64>) -> f64 {
    1e3 / median(rounds_ms)
}
