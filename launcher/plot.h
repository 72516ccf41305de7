// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace rekindle {

// The learning rate over a run, for people to look at.
struct Curve {
  std::vector<std::pair<double, double>> points;  // place in the run, rate; ascending, at least two
  std::string unit;                               // of the places: "epochs", "seconds"
};

// Drawn with block characters, `columns` x `rows` without the axes.
std::string plot_text(const Curve& curve, int columns = 72, int rows = 12);

// A whole SVG document.
std::string plot_svg(const Curve& curve, const std::string& title);

}  // namespace rekindle
