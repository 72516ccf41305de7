// SPDX-License-Identifier: Apache-2.0
#include "launcher/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "core/text.h"
#include "launcher/table.h"

namespace rekindle {
namespace {

double highest(const Curve& curve) {
  double most = 0;
  for (const auto& [place, rate] : curve.points) most = std::max(most, rate);
  return most > 0 ? most : 1;
}

// On the straight line between the points beside it.
double rate_at(const Curve& curve, double place) {
  const auto after = std::ranges::lower_bound(curve.points, place, {}, &std::pair<double, double>::first);
  if (after == curve.points.begin()) return after->second;
  if (after == curve.points.end()) return curve.points.back().second;
  const auto before = after - 1;
  const double width = after->first - before->first;
  const double share = width > 0 ? (place - before->first) / width : 1;
  return before->second + share * (after->second - before->second);
}

std::string padded(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '<') {
      safe += "&lt;";
    } else if (c == '&') {
      safe += "&amp;";
    } else {
      safe += c;
    }
  }
  return safe;
}

}  // namespace

std::string plot_text(const Curve& curve, int columns, int rows) {
  constexpr std::array kEighths = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const double top = highest(curve), from = curve.points.front().first, to = curve.points.back().first;
  const std::string label = short_number(top);
  std::string text;
  for (int row = rows - 1; row >= 0; --row) {
    text += padded(row == rows - 1 ? label : row == 0 ? "0" : "", label.size()) + " │";
    std::string line;
    for (int column = 0; column < columns; ++column) {
      const double place = from + (to - from) * (column + 0.5) / columns;
      const double eighths = rate_at(curve, place) / top * rows * 8 - row * 8.0;
      line += kEighths[static_cast<size_t>(std::clamp(std::lround(eighths), 0L, 8L))];
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  const std::string end = short_number(to) + " " + curve.unit;
  text += std::string(label.size(), ' ') + " └";
  for (int column = 0; column < columns; ++column) text += "─";
  return text + "\n" + std::string(label.size() + 2, ' ') + short_number(from) +
         padded(end, columns - short_number(from).size()) + "\n";
}

std::string plot_svg(const Curve& curve, const std::string& title) {
  constexpr double kWidth = 720, kHeight = 280, kLeft = 70, kTop = 40;
  const double top = highest(curve), from = curve.points.front().first, to = curve.points.back().first;
  std::string path;
  for (const auto& [place, rate] : curve.points) {
    char point[64];
    std::snprintf(point, sizeof point, "%.2f,%.2f ",
                  kLeft + kWidth * (place - from) / std::max(to - from, 1e-300),
                  kTop + kHeight * (1 - rate / top));
    path += point;
  }
  char frame[1024];
  std::snprintf(
      frame, sizeof frame,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 370\" font-family=\"sans-serif\" "
      "font-size=\"13\">\n"
      "<rect width=\"820\" height=\"370\" fill=\"white\"/>\n"
      "<path d=\"M%g %g V%g H%g\" fill=\"none\" stroke=\"#888\"/>\n",
      kLeft, kTop, kTop + kHeight, kLeft + kWidth);
  const auto label = [](double x, double y, const char* anchor, const std::string& text) {
    char place[96];
    std::snprintf(place, sizeof place, "<text x=\"%g\" y=\"%g\" text-anchor=\"%s\">", x, y, anchor);
    return place + escaped(text) + "</text>\n";
  };
  return frame + label(kLeft, kTop - 16, "start", title) +
         label(kLeft - 8, kTop + 5, "end", short_number(top)) +
         label(kLeft - 8, kTop + kHeight + 5, "end", "0") +
         label(kLeft, kTop + kHeight + 20, "middle", short_number(from)) +
         label(kLeft + kWidth, kTop + kHeight + 20, "end", short_number(to) + " " + curve.unit) +
         "<polyline fill=\"none\" stroke=\"#c33\" stroke-width=\"2\" points=\"" + path + "\"/>\n</svg>\n";
}

}  // namespace rekindle
