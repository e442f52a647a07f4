//! The pictures of a report, as SVG text. What is drawn was computed elsewhere.

use plotters::prelude::*;

use crate::Failure;

const SIZE: (u32, u32) = (900, 520);
const FONT: (&str, i32) = ("sans-serif", 15);

/// A method has the same colour in every picture (Okabe and Ito's palette: told apart by everybody).
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
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let width = if high > low { high - low } else { high.abs().max(1.0) * 0.1 };
    (low - room * width, high + room * width)
}

/// Smoothed training losses against steps, one curve per method.
pub(crate) fn losses(curves: &[(&str, Vec<f64>)]) -> Result<String, Failure> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let steps = curves.iter().map(|(_, losses)| losses.len()).max().unwrap_or(1).max(2);
        // A loss that explodes is not to flatten the others.
        let first = curves.iter().filter_map(|(_, losses)| losses.first()).copied().fold(0.0, f64::max);
        let (low, high) = range(curves.iter().flat_map(|(_, losses)| losses.iter().copied()).map(|loss| loss.min(1.5 * first)), 0.05);
        let mut chart = ChartBuilder::on(&root)
            .caption("Training loss (smoothed)", ("sans-serif", 20))
            .margin(14)
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
        for (method, losses) in curves {
            let style = colour(method).stroke_width(2);
            let points = losses.iter().enumerate().map(|(step, loss)| ((step + 1) as f64, loss.min(1.5 * first)));
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(*method)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(FONT)
            .draw()?;
        root.present()?;
    }
    Ok(picture)
}

/// Quality against peak memory in megabytes, one labelled point per method.
pub(crate) fn quality(points: &[(&str, f64, f64)], quality: &str) -> Result<String, Failure> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (x, y) = (range(points.iter().map(|point| point.1), 0.15), range(points.iter().map(|point| point.2), 0.15));
        let mut chart = ChartBuilder::on(&root)
            .caption("Quality against memory", ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
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
            .y_desc(format!("validation {quality}"))
            .y_label_formatter(&|value| format!("{value:.digits$}"))
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        let labels = places(&points.iter().map(|&(_, px, py)| chart.backend_coord(&(px, py))).collect::<Vec<_>>());
        chart.draw_series(points.iter().zip(labels).map(|(&(method, px, py), place)| {
            let text = Text::new(method.to_owned(), place, FONT.into_font().color(&colour(method)));
            EmptyElement::at((px, py)) + Circle::new((0, 0), 6, colour(method).filled()) + text
        }))?;
        root.present()?;
    }
    Ok(picture)
}

/// Where each label goes beside its point, in pixels: the first place in which it covers no other label or point.
fn places(points: &[(i32, i32)]) -> Vec<(i32, i32)> {
    const ROOM: (i32, i32) = (60, 15);
    const OFFSETS: [(i32, i32); 8] = [(10, -7), (10, -22), (10, 8), (-58, -7), (-58, -22), (-58, 8), (10, -37), (10, 23)];
    let mut taken: Vec<(i32, i32)> = Vec::new();
    let place = |taken: &mut Vec<(i32, i32)>, &(x, y): &(i32, i32)| {
        let is_free = |&(dx, dy): &(i32, i32)| {
            let (left, top) = (x + dx, y + dy);
            let label = taken.iter().any(|(l, t)| (l - left).abs() < ROOM.0 && (t - top).abs() < ROOM.1);
            let point = points.iter().any(|&(px, py)| (px - left - ROOM.0 / 2).abs() < ROOM.0 / 2 + 6 && (py - top - 7).abs() < 12);
            !label && !point
        };
        let offset = OFFSETS.into_iter().find(is_free).unwrap_or((10, -7 - 15 * taken.len() as i32));
        taken.push((x + offset.0, y + offset.1));
        offset
    };
    points.iter().map(|point| place(&mut taken, point)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_points_in_one_place_lie_apart() {
        let places = places(&[(400, 200), (400, 200), (402, 201), (500, 100)]);
        for (i, a) in places[..3].iter().enumerate() {
            for b in &places[..i] {
                assert!((a.0 - b.0).abs() >= 58 || (a.1 - b.1).abs() >= 14, "{places:?}");
            }
        }
    }

    #[test]
    fn pictures_name_every_method_and_survive_odd_numbers() {
        let picture = losses(&[("lora", vec![2.0, 1.0, 0.5]), ("dora", vec![2.0, f64::NAN]), ("full", vec![])]).unwrap();
        assert!(picture.starts_with("<svg") && ["lora", "dora", "full", "optimizer step"].iter().all(|text| picture.contains(text)));
        let picture = quality(&[("lora", 100.0, 0.9), ("qlora", 100.0, 0.9)], "accuracy").unwrap();
        assert!(["qlora", "peak memory, MB", "validation accuracy"].iter().all(|text| picture.contains(text)), "{picture}");
        assert!(quality(&[("lora", f64::NAN, 0.9)], "accuracy").is_ok() && losses(&[]).is_ok());
    }
}
