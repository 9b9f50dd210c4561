// Colours: those of `audit figure`.

// matplotlib's RdBu_r (ColorBrewer) and viridis by what is between their anchors.
const RDBU = [[5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240],
  [247, 247, 247], [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31]];
const VIRIDIS = [[68, 1, 84], [72, 26, 108], [71, 47, 125], [65, 68, 135], [57, 86, 140],
  [49, 104, 142], [42, 120, 142], [35, 136, 142], [31, 152, 139], [34, 168, 132], [53, 183, 121],
  [84, 197, 104], [122, 209, 81], [165, 219, 54], [210, 226, 27], [253, 231, 37]];
const POSITIVE = "#b2182b", NEGATIVE = "#2166ac", MISSING = "#c51b8a";
const MISSING_RGB = [0xc5, 0x1b, 0x8a];
const LINE_COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#808080"];

/** 256 colours between the anchors, rounded as matplotlib does. */
function colorMap(anchors) {
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (anchors.length - 1);
    const left = Math.min(Math.floor(at), anchors.length - 2);
    return [0, 1, 2].map((c) =>
      Math.floor(anchors[left][c] + (at - left) * (anchors[left + 1][c] - anchors[left][c]) + 1e-9));
  });
}

const DIVERGING = colorMap(RDBU);
const HEAT = colorMap(VIRIDIS);
const colorAt = (map, share) => map[Math.min(255, Math.max(0, Math.floor(256 * share)))];
const greyLevel = (share) => Math.round(255 * Math.min(1, Math.max(0, share)));
