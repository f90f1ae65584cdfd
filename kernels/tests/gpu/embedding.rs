use std::sync::Arc;

use reverie_kernels::{Backend, Error};

use crate::{Plain, check, gpu, noise, upload};

#[test]
fn rows_plus_positions() {
    let gpu = gpu();
    for features in [1, 8, 13, 40, 320] {
        let (table, positions) = (noise([1, 1, 9, features], 1), noise([1, 1, 7, features], 2));
        let rows = table.data.clone();
        let rows = Arc::new(move |i: usize| Ok(rows[i * features..][..features].to_vec()));
        let embedding = gpu.prepare_embedding(9, features, rows).unwrap();
        let sequences: [&[&[u32]]; 3] =
            [&[&[8]], &[&[0, 8, 3, 3, 1], &[5, 4, 0, 0, 2], &[7, 6, 8, 1, 0]], &[&[1, 2, 3, 4, 5, 6, 7]]];
        for sequences in sequences {
            let tokens = sequences[0].len();
            let expected = Plain::from_fn([sequences.len(), 1, tokens, features], |n, _, t, i| {
                table.at(0, 0, sequences[n][t] as usize, i) + positions.at(0, 0, t, i)
            });
            let out = gpu.embedding(sequences, &embedding, &upload(&gpu, &positions)).unwrap();
            check(&gpu, &out, &expected, 5e-4, &format!("{sequences:?} of {features} features"));
        }
    }
}

#[test]
fn what_is_not_in_the_tables_is_refused() {
    let gpu = gpu();
    let embedding = gpu.prepare_embedding(5, 8, Arc::new(|_| Ok(vec![0.0; 8]))).unwrap();
    let positions = upload(&gpu, &noise([1, 1, 3, 8], 1));
    let error = |sequences: &[&[u32]]| gpu.embedding(sequences, &embedding, &positions).err();
    assert_eq!(error(&[&[0, 4], &[5, 0]]), Some(Error::Row { index: 5, count: 5 }));
    assert_eq!(error(&[&[u32::MAX]]), Some(Error::Row { index: u32::MAX as usize, count: 5 }));
    assert_eq!(error(&[]), Some(Error::InvalidShape { shape: [0, 1, 0, 8] }));
    let uneven = Some(Error::DataLength { shape: [1, 1, 1, 2], expected: 2, actual: 1 });
    assert_eq!(error(&[&[0, 1], &[0]]), uneven);
    let operation = "embedding: positions";
    let long = Error::ShapeMismatch { operation, left: [1, 1, 4, 8], right: [1, 1, 3, 8] };
    assert_eq!(error(&[&[0; 4]]), Some(long));

    let short = gpu.prepare_embedding(5, 8, Arc::new(|i| Ok(vec![0.0; 8 - i]))).err();
    let expected = Error::ParameterLength { what: "row of an embedding", expected: 8, actual: 7 };
    assert_eq!(short, Some(expected));
    let gone = Error::Rows { reason: "the table is gone".into() };
    let given = gone.clone();
    let rows = Arc::new(move |i| if i == 3 { Err(given.clone()) } else { Ok(vec![0.0; 8]) });
    assert_eq!(gpu.prepare_embedding(5, 8, rows).err(), Some(gone));
    let empty = gpu.prepare_embedding(0, 8, Arc::new(|_| Ok(Vec::new()))).err();
    assert_eq!(empty, Some(Error::InvalidShape { shape: [1, 1, 0, 8] }));
}
