//! Rows of text under their heads, for people.

/// A line for each row, with the columns aligned.
pub fn aligned<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut lines = vec![head.map(String::from)];
    lines.extend(rows);
    let mut widths = [0; N];
    for row in &lines {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &lines {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["1", ""], ["22222", "é"]].map(|row| row.map(String::from));
        assert_eq!(aligned(["ID", "X"], rows.into_iter()), "ID     X\n1\n22222  é\n");
    }
}
