//! The pictures of a report, as SVG text. What is drawn was computed elsewhere.

use plotters::prelude::*;

use crate::Failure;

const SIZE: (u32, u32) = (900, 520);
const FONT: (&str, i32) = ("sans-serif", 15);
/// Pixels to the right of the curves, for their names.
const NAMES: u32 = 84;

/// A method has the same colour in every picture (Okabe and Ito's palette: told apart by
/// everybody).
fn colour(method: &str) -> RGBColor {
    match method {
        "lora" => RGBColor(0, 114, 178),
        "qlora" => RGBColor(213, 94, 0),
        "rslora" => RGBColor(0, 158, 115),
        "lora+" => RGBColor(204, 121, 167),
        "dylora" => RGBColor(230, 159, 0),
        "lora-fa" => RGBColor(86, 180, 233),
        "dora" => RGBColor(0, 0, 0),
        _ => RGBColor(140, 140, 140),
    }
}

/// The smallest and largest of `values`, with a share of room around them.
fn range(values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let width = if high > low { high - low } else { high.abs().max(1.0) * 0.1 };
    (low - room * width, high + room * width)
}

/// Smoothed training losses against steps, one curve per method, its name at its end.
pub(crate) fn losses(curves: &[(&str, Vec<f64>)]) -> Result<String, Failure> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let steps = curves.iter().map(|(_, losses)| losses.len()).max().unwrap_or(1).max(2);
        // A loss that explodes is not to flatten the others.
        let first =
            curves.iter().filter_map(|(_, losses)| losses.first()).copied().fold(0.0, f64::max);
        let shown = |loss: f64| loss.min(1.5 * first);
        let (low, high) =
            range(curves.iter().flat_map(|(_, losses)| losses.iter().copied()).map(shown), 0.05);
        let mut chart = ChartBuilder::on(&root)
            .caption("Training loss (smoothed)", ("sans-serif", 20))
            .margin(14)
            .margin_right(14 + NAMES)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(1.0..steps as f64, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc("optimizer step")
            .y_desc("loss")
            .x_label_formatter(&|step| format!("{step:.0}"))
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        let mut ends = Vec::new();
        for (method, losses) in curves {
            let mut points =
                losses.iter().enumerate().map(|(step, loss)| ((step + 1) as f64, shown(*loss)));
            chart.draw_series(LineSeries::new(points.clone(), colour(method).stroke_width(2)))?;
            ends.push((
                *method,
                points.rfind(|point| point.1.is_finite()).map(|end| chart.backend_coord(&end)),
            ));
        }
        let right = SIZE.0 as i32 - 14 - NAMES as i32;
        for (method, end, height) in column(&ends) {
            let colour = colour(method);
            if let Some(end) = end {
                root.draw(&PathElement::new(
                    vec![end, (right + 4, height), (right + 14, height)],
                    colour.mix(0.5),
                ))?;
            }
            root.draw(&Text::new(
                method.to_owned(),
                (right + 18, height - 7),
                FONT.into_font().color(&colour),
            ))?;
        }
        root.present()?;
    }
    Ok(picture)
}

/// A method, the end of its curve if it has one, and the height of its name.
type Label<'m> = (&'m str, Option<(i32, i32)>, i32);

/// The names beside the ends of curves, a line apart from each other: in the order of the ends,
/// each as near its own as can be.
fn column<'m>(ends: &[(&'m str, Option<(i32, i32)>)]) -> Vec<Label<'m>> {
    const LINE: i32 = 18;
    let (top, bottom) = (50, SIZE.1 as i32 - 70);
    let mut placed: Vec<_> =
        ends.iter().map(|&(name, end)| (name, end, end.map_or(bottom, |end| end.1))).collect();
    placed.sort_by_key(|placed| placed.2);
    let mut free = top;
    for (_, _, height) in &mut placed {
        *height = (*height).max(free);
        free = *height + LINE;
    }
    // What was pushed out at the bottom pushes the others up.
    let mut free = bottom;
    for (_, _, height) in placed.iter_mut().rev() {
        *height = (*height).min(free);
        free = *height - LINE;
    }
    placed
}

/// Quality against peak memory in megabytes, one labelled point per method.
pub(crate) fn quality(points: &[(&str, f64, f64)], quality: &str) -> Result<String, Failure> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (x, y) = (
            range(points.iter().map(|point| point.1), 0.15),
            range(points.iter().map(|point| point.2), 0.15),
        );
        let mut chart = ChartBuilder::on(&root)
            .caption("Quality against memory", ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        let megabyte_digits = if x.1 - x.0 < 10.0 { 1 } else { 0 };
        let digits = if y.1 - y.0 < 0.05 {
            4
        } else if y.1 - y.0 < 1.0 {
            3
        } else {
            2
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc("peak memory, MB")
            .x_label_formatter(&|value| format!("{value:.megabyte_digits$}"))
            .y_desc(format!("validation {quality}"))
            .y_label_formatter(&|value| format!("{value:.digits$}"))
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        let at: Vec<(i32, i32)> =
            points.iter().map(|&(_, px, py)| chart.backend_coord(&(px, py))).collect();
        let names: Vec<(&str, (i32, i32))> =
            points.iter().map(|point| point.0).zip(at.iter().copied()).collect();
        for ((&(method, ..), &(px, py)), (dx, dy)) in points.iter().zip(&at).zip(places(&names)) {
            let colour = colour(method);
            let (left, middle) = (px + dx, py + dy + 7);
            // A name that is not beside its point is tied to it.
            if (middle - py).abs() > 10 {
                let near = if dx > 0 { left - 2 } else { left + width(method) + 2 };
                root.draw(&PathElement::new(vec![(px, py), (near, middle)], colour))?;
            }
            root.draw(&Circle::new((px, py), 6, colour.filled()))?;
            root.draw(&Text::new(
                method.to_owned(),
                (left, py + dy),
                FONT.into_font().color(&colour),
            ))?;
        }
        root.present()?;
    }
    Ok(picture)
}

/// Pixels that a name takes, roughly: fonts are the viewer's.
fn width(name: &str) -> i32 {
    8 * name.len() as i32
}

/// Where the upper left corner of each name goes from its point, in pixels: the first place in
/// which it covers no other name or point.
fn places(points: &[(&str, (i32, i32))]) -> Vec<(i32, i32)> {
    let mut taken: Vec<(i32, i32, i32)> = Vec::new();
    let mut place = |&(name, (x, y)): &(&str, (i32, i32))| {
        let width = width(name);
        let is_free = |&(dx, dy): &(i32, i32)| {
            let (left, top) = (x + dx, y + dy);
            let name = taken
                .iter()
                .any(|&(l, t, w)| l < left + width && left < l + w && (t - top).abs() < 15);
            let point = points.iter().any(|&(_, (px, py))| {
                px > left - 6 && px < left + width + 6 && (py - top - 7).abs() < 12
            });
            !name && !point
        };
        let sides = [-7, -24, 10, -41, 27, -58, 44, -75, 61]
            .into_iter()
            .flat_map(|dy| [(12, dy), (-12 - width, dy)]);
        let offset = sides.into_iter().find(is_free).unwrap_or((12, -92 - 15 * taken.len() as i32));
        taken.push((x + offset.0, y + offset.1, width));
        offset
    };
    points.iter().map(&mut place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_points_in_one_place_lie_apart() {
        let places = places(&[
            ("lora", (400, 200)),
            ("qlora", (400, 200)),
            ("lora-fa", (402, 201)),
            ("full", (500, 100)),
        ]);
        for (i, a) in places[..3].iter().enumerate() {
            for b in &places[..i] {
                assert!((a.0 - b.0).abs() >= 40 || (a.1 - b.1).abs() >= 14, "{places:?}");
            }
        }
    }

    #[test]
    fn names_at_the_ends_of_curves_lie_apart_and_inside() {
        let ends = [
            ("lora", Some((800, 440))),
            ("dora", Some((800, 441))),
            ("lora+", Some((800, 300))),
            ("full", None),
        ];
        let column = column(&ends);
        assert_eq!(column[0].0, "lora+");
        assert!(column.windows(2).all(|pair| pair[1].2 - pair[0].2 >= 18), "{column:?}");
        assert!(column.iter().all(|(_, _, height)| (50..=450).contains(height)), "{column:?}");
    }

    #[test]
    fn pictures_name_every_method_and_survive_odd_numbers() {
        let picture = losses(&[
            ("lora", vec![2.0, 1.0, 0.5]),
            ("dora", vec![2.0, f64::NAN]),
            ("full", vec![]),
        ])
        .unwrap();
        assert!(
            picture.starts_with("<svg")
                && ["lora", "dora", "full", "optimizer step"]
                    .iter()
                    .all(|text| picture.contains(text))
        );
        let picture = quality(&[("lora", 100.0, 0.9), ("qlora", 100.0, 0.9)], "accuracy").unwrap();
        assert!(
            ["qlora", "peak memory, MB", "validation accuracy"]
                .iter()
                .all(|text| picture.contains(text)),
            "{picture}"
        );
        assert!(quality(&[("lora", f64::NAN, 0.9)], "accuracy").is_ok() && losses(&[]).is_ok());
    }
}
