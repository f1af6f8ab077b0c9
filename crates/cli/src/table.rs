//! Tables of text: aligned columns, two spaces between them.

/// Returns `rows` below `headings`, each column as wide as its widest cell.
pub(crate) fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings = headings.map(str::to_owned);
    std::iter::once(&headings)
        .chain(rows)
        .map(|row| line(row, &widths))
        .collect()
}

fn line<const COLUMNS: usize>(row: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    let mut line = cells.join("  ").trim_end().to_owned();
    line.push('\n');
    line
}

/// Returns names and values below each other, the values aligned.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    pairs
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "running".to_owned()],
            ["longer-name".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "STATE"], &rows),
            "NAME         STATE\na            running\nlonger-name  x\n"
        );
    }
}
