//! A map of where values of v landed.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{COLUMNS, HEADS, IMAGES, KEYS, QUERIES, ROWS, fill, target};

/// How many misplaced values are listed, and of how many kinds of misplacement.
const LISTED: usize = 32;
const KINDS: usize = 12;

/// A value of the result, and the place in v that it names.
struct Landed {
    image: usize,
    head: usize,
    query: usize,
    column: usize,
    from: From,
}

enum From {
    /// Image, head, row and column.
    Place([usize; 4]),
    /// No whole number, or one that names no place: a sum of several, or what was never in v.
    Nowhere([f32; 2]),
}

/// The place that the two results name.
fn place(row: f32, column: f32, width: usize) -> From {
    let number =
        |value: f32| (value.fract() == 0.0 && (1.0..=2048.0).contains(&value)).then(|| value as usize - 1);
    match (number(row), number(column)) {
        (Some(name), Some(column)) if name % 512 < KEYS && name / 512 < IMAGES * HEADS && column < width => {
            From::Place([name / 512 / HEADS, name / 512 % HEADS, name % 512, column])
        }
        _ => From::Nowhere([row, column]),
    }
}

/// What did not land where it should have: none where all did. `rows` and `columns` are results for v that names them.
pub fn describe(width: usize, rows: &[f32], columns: &[f32]) -> Option<String> {
    let all = IMAGES * QUERIES * HEADS * width;
    if rows.len() != all || columns.len() != all {
        return Some(format!("{} and {} values, not {all}\n", rows.len(), columns.len()));
    }
    let mut wrong: Vec<Landed> = Vec::new();
    // The numbers of values, in their order.
    let places = fill(QUERIES, width, |_, _, _, _| 0.0).len();
    for i in 0..places {
        let (image, query) = (i / (HEADS * width) / QUERIES, i / (HEADS * width) % QUERIES);
        let (head, column) = (i / width % HEADS, i % width);
        let key = target(image, head, query);
        let [row_name, column_name] =
            [ROWS, COLUMNS].map(|named| (named.name)(image, head, key, column) as f32);
        if rows[i] != row_name || columns[i] != column_name {
            wrong.push(Landed { image, head, query, column, from: place(rows[i], columns[i], width) });
        }
    }
    if wrong.is_empty() {
        return None;
    }
    let mut text = format!("{} of {all} values came from the wrong place\n", wrong.len());
    for Landed { image, head, query, column, from } in wrong.iter().take(LISTED) {
        let wanted = target(*image, *head, *query);
        let _ = write!(text, "  image {image}, head {head}, query {query}, column {column}: ");
        let _ = match from {
            From::Place([i, h, r, c]) => {
                writeln!(text, "v[image {i}, head {h}, row {r}, column {c}], not row {wanted}")
            }
            From::Nowhere([row, column]) => {
                writeln!(text, "row name {row}, column name {column}: no place, not row {wanted}")
            }
        };
    }
    kinds(&mut text, &wrong);
    Some(text)
}

/// How far values are off, the most frequent first, and which columns are concerned.
fn kinds(text: &mut String, wrong: &[Landed]) {
    let mut kinds: BTreeMap<String, (usize, BTreeMap<usize, usize>)> = BTreeMap::new();
    for Landed { image, head, query, column, from } in wrong {
        let kind = match from {
            From::Place([i, h, r, c]) => {
                let by = |to: usize, from: usize| from as i64 - to as i64;
                let row = by(target(*image, *head, *query), *r);
                let [column, head, image] = [by(*column, *c), by(*head, *h), by(*image, *i)];
                format!("{row:+} rows, {column:+} columns, {head:+} heads, {image:+} images")
            }
            From::Nowhere([row, column]) if *row == 0.0 && *column == 0.0 => "zero".to_owned(),
            From::Nowhere(_) => "no place".to_owned(),
        };
        let (count, columns) = kinds.entry(kind).or_default();
        *count += 1;
        *columns.entry(*column).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (kind, (count, columns)) in kinds.iter().take(KINDS) {
        let columns: Vec<String> = columns.keys().map(usize::to_string).collect();
        let _ = writeln!(text, "  {count} off by {kind}: in columns {}", columns.join(" "));
    }
    if kinds.len() > KINDS {
        let _ = writeln!(text, "  and {} kinds more", kinds.len() - KINDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device gives that is right, for v that names rows and for v that names columns.
    fn right(width: usize) -> [Vec<f32>; 2] {
        [ROWS, COLUMNS].map(|named| {
            fill(QUERIES, width, |image, head, query, column| {
                (named.name)(image, head, target(image, head, query), column) as f32
            })
        })
    }

    #[test]
    fn names_are_halves_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for (image, head, row) in
            (0..IMAGES).flat_map(|i| (0..HEADS).flat_map(move |h| (0..KEYS).map(move |r| (i, h, r))))
        {
            let name = (ROWS.name)(image, head, row, 0);
            assert!(name <= 2048 && seen.insert(name), "{name}");
            assert!(matches!(place(name as f32, 8.0, 40), From::Place(at) if at == [image, head, row, 7]));
        }
    }

    #[test]
    fn what_is_right_is_no_mismatch() {
        for width in super::super::WIDTHS {
            let [rows, columns] = right(width);
            assert_eq!(describe(width, &rows, &columns), None, "{width}");
        }
    }

    /// The second half of an atom's columns read from its first, as where a swizzle is not applied.
    #[test]
    fn a_moved_column_says_where_it_came_from() {
        let width = 40;
        let [rows, mut columns] = right(width);
        columns.iter_mut().for_each(|name| *name = if *name > 32.0 { *name - 32.0 } else { *name });
        let text = describe(width, &rows, &columns).unwrap();
        let all = IMAGES * HEADS * QUERIES;
        assert!(text.starts_with(&format!("{} of {} values", 8 * all, width * all)), "{text}");
        let first =
            "\n  image 0, head 0, query 0, column 32: v[image 0, head 0, row 3, column 0], not row 3\n";
        assert!(text.contains(first), "{text}");
        let kind = format!(
            "\n  {} off by +0 rows, -32 columns, +0 heads, +0 images: in columns 32 33 34 35 36 37 38 39\n",
            8 * all
        );
        assert!(text.contains(&kind), "{text}");
    }

    #[test]
    fn zeros_and_sums_are_no_places() {
        let width = 64;
        let [mut rows, mut columns] = right(width);
        rows[5] = 0.0;
        columns[5] = 0.0;
        rows[7] = 310.5;
        columns[8] = f32::NAN;
        let text = describe(width, &rows, &columns).unwrap();
        assert!(text.starts_with("3 of "), "{text}");
        assert!(
            text.contains("\n  2 off by no place: in columns 7 8\n  1 off by zero: in columns 5\n"),
            "{text}"
        );
    }
}
