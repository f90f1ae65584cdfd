use super::*;

fn mismatch(actual: &[f32], expected: &[f32], layout: impl Into<Layout>, allowed: f32) -> String {
    compare(actual, expected, layout.into(), allowed).mismatch.expect("they differ")
}

#[test]
fn what_is_within_is_no_mismatch() {
    let comparison = compare(&[1.0, -3.996], &[1.0, -4.0], [1, 1, 1, 2].into(), 2e-3);
    assert!((comparison.worst - 1e-3).abs() < 1e-6 && comparison.mismatch.is_none(), "{comparison:?}");
    // The same infinity and NaN are right, and no scale for others.
    let odd = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 2.0];
    let comparison = compare(&odd, &odd, [1, 1, 1, 4].into(), 0.0);
    assert!(comparison.worst == 0.0 && comparison.mismatch.is_none(), "{comparison:?}");
}

#[test]
fn infinities_and_nan_are_counted_and_never_within() {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let text = mismatch(&[nan, infinity, -infinity, 1.0], &[1.0, 1.0, infinity, nan], [1, 1, 1, 4], 1e9);
    let head =
        "4 of 4 values differ by more than 1.0e9 of 1, by inf at worst; NaN: 1, not 1; infinite: 2, not 1\n";
    assert!(text.starts_with(head), "{text}");
}

#[test]
fn other_lengths_are_a_mismatch() {
    let comparison = compare(&[1.0], &[1.0, 2.0], [1, 1, 1, 2].into(), 1.0);
    assert_eq!(
        (comparison.worst, comparison.mismatch.unwrap().as_str()),
        (f32::INFINITY, "1 values, not 2\n")
    );
}

/// Two images of 130 rows, 2 heads of 40.
#[test]
fn a_sequence_by_rows_columns_heads_and_tiles() {
    let layout = Layout { shape: [2, 1, 130, 80], heads: 2 };
    let expected = vec![1.0f32; 2 * 130 * 80];
    let mut actual = expected.clone();
    // A column of the second head, in the second image.
    for row in 0..130 {
        actual[(130 + row) * 80 + 67] = 1.5;
    }
    actual[(130 + 129) * 80 + 67] = 3.0;
    let text = mismatch(&actual, &expected, layout, 1e-3);
    assert!(
        text.starts_with("130 of 20800 values differ by more than 1.0e-3 of 1, by 2.00e0 at worst"),
        "{text}"
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "  image 1, row 0, column 67 (column 27 of head 1): 1.5, not 1");
    assert_eq!(lines[33], "  worst: image 1, row 129, column 67 (column 27 of head 1): 3, not 1");
    let rows: Vec<String> = (0..16).map(|row| format!("{row}:{}", 8 + usize::from(row < 2))).collect();
    let rows = format!("  by row mod 16: {}", rows.join(" "));
    let histograms = [
        rows.as_str(),
        "  by column mod 8: 3:130",
        "  by image: 1:130",
        "  by head: 1:130",
        "  by tile of 64 x 64: 0,1:64 1,1:64 2,1:2",
        "  by tile of 128 x 128: 0,0:128 1,0:2",
    ];
    assert_eq!(lines[34..], histograms);
}

/// Pictures are pixels by channels on the device.
#[test]
fn a_picture_by_pixels_and_channels() {
    let expected = vec![0.5f32; 2 * 3 * 4 * 5];
    let mut actual = expected.clone();
    // Image 1, channel 2, y 3, x 1.
    actual[((3 + 2) * 4 + 3) * 5 + 1] = 0.0;
    let text = mismatch(&actual, &expected, [2, 3, 4, 5], 0.0);
    assert!(text.contains("\n  image 1, row 16, column 2 (y 3, x 1): 0, not 0.5\n"), "{text}");
    assert!(text.contains("\n  by row mod 16: 0:1\n  by column mod 8: 2:1\n  by image: 1:1\n"), "{text}");
    assert!(!text.contains("head") && !text.contains("tile"), "{text}");
}

#[test]
fn many_tiles_are_cut_short() {
    let shape = [1, 1, 1, 64 * 40];
    let text = mismatch(&[1.0; 64 * 40], &[0.0; 64 * 40], shape, 0.0);
    let tiles = text.lines().find(|line| line.contains("64 x 64")).unwrap();
    assert!(tiles.ends_with(" 0,31:64 and 8 more"), "{tiles}");
    assert!(text.lines().count() < 40, "{text}");
}

#[test]
fn dumps_are_raw_values() {
    let folder = tempfile::tempdir().unwrap();
    let values: [(&str, &[f32]); 2] = [("actual", &[1.0, f32::NAN]), ("q", &[-2.5])];
    let named = dump::write(folder.path(), "attention [1, 2] / 40", &values).unwrap();
    assert!(named.ends_with("attention__1,_2____40.*.f32"), "{named}");
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("attention__1,_2____40.q.f32"), (-2.5f32).to_le_bytes());
    assert_eq!(read("attention__1,_2____40.actual.f32")[..4], 1f32.to_le_bytes());
    // Another of the same name does not overwrite it.
    let again = dump::write(folder.path(), "attention [1, 2] / 40", &[("actual", &[7.0])]).unwrap();
    assert!(again.ends_with("40-2.*.f32"), "{again}");
    assert_eq!(read("attention__1,_2____40.actual.f32").len(), 8);
}
