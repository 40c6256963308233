/**
 * Least squares with a ridge, by normal equations: rows are added one by one, so that no matrix of all of them is held.
 * Columns are brought to one scale before the ridge is added, and the intercept is not shrunk.
 */
export class Regression {
  readonly #width: number;
  readonly #gram: Float64Array;
  readonly #moments: Float64Array;

  /** @param columns without the intercept, which is column 0 of every row given. */
  constructor(columns: number) {
    this.#width = columns + 1;
    this.#gram = new Float64Array(this.#width * this.#width);
    this.#moments = new Float64Array(this.#width);
  }

  /** How much the rows so far weigh together. */
  get weight(): number {
    return this.#gram[0] as number;
  }

  add(row: Float64Array, target: number, weight = 1): void {
    const [width, gram, moments] = [this.#width, this.#gram, this.#moments];
    for (let i = 0; i < width; i++) {
      const scaled = weight * (row[i] as number);
      if (scaled === 0) continue;
      moments[i] = (moments[i] as number) + scaled * target;
      const at = i * width;
      for (let j = 0; j <= i; j++) gram[at + j] = (gram[at + j] as number) + scaled * (row[j] as number);
    }
  }

  /** Lets what was added so far count for less. */
  fade(by: number): void {
    for (let i = 0; i < this.#gram.length; i++) this.#gram[i] = (this.#gram[i] as number) * by;
    for (let i = 0; i < this.#moments.length; i++) this.#moments[i] = (this.#moments[i] as number) * by;
  }

  /** The coefficients, the intercept first. Null where the rows do not determine any. */
  solve(ridge: number): Float64Array | null {
    const [width, gram] = [this.#width, this.#gram];
    const total = this.weight;
    if (!(total > 0)) return null;
    const means = Float64Array.from({ length: width }, (_, i) => (gram[i * width] as number) / total);
    const scales = Float64Array.from({ length: width }, (_, i) => {
      return Math.sqrt(Math.max(0, (gram[i * width + i] as number) / total - (means[i] as number) ** 2));
    });
    const matrix = new Float64Array(width * width);
    const right = new Float64Array(width);
    const target = (this.#moments[0] as number) / total;
    for (let i = 1; i < width; i++) {
      const scale = scales[i] as number;
      // A column that never varied says nothing: its equation becomes "coefficient = 0".
      const live = scale > 1e-9;
      matrix[i * width + i] = 1;
      if (!live) continue;
      right[i] = ((this.#moments[i] as number) / total - (means[i] as number) * target) / scale;
      for (let j = 1; j <= i; j++) {
        const other = scales[j] as number;
        if (other <= 1e-9) continue;
        matrix[i * width + j] = ((gram[i * width + j] as number) / total - (means[i] as number) * (means[j] as number)) / (scale * other);
      }
      matrix[i * width + i] = 1 + ridge;
    }
    matrix[0] = 1;
    if (!solveSymmetric(matrix, right, width)) return null;
    let intercept = target;
    for (let i = 1; i < width; i++) {
      right[i] = (scales[i] as number) > 1e-9 ? (right[i] as number) / (scales[i] as number) : 0;
      intercept -= (right[i] as number) * (means[i] as number);
    }
    right[0] = intercept;
    return right;
  }
}

export function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Cholesky on the lower triangle, in place; `right` becomes the solution. False where the matrix is not positive definite. */
function solveSymmetric(matrix: Float64Array, right: Float64Array, width: number): boolean {
  for (let i = 0; i < width; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * width + j] as number;
      for (let k = 0; k < j; k++) sum -= (matrix[i * width + k] as number) * (matrix[j * width + k] as number);
      if (i === j) {
        if (!(sum > 1e-12)) return false;
        matrix[i * width + i] = Math.sqrt(sum);
      } else matrix[i * width + j] = sum / (matrix[j * width + j] as number);
    }
  }
  for (let i = 0; i < width; i++) {
    let sum = right[i] as number;
    for (let k = 0; k < i; k++) sum -= (matrix[i * width + k] as number) * (right[k] as number);
    right[i] = sum / (matrix[i * width + i] as number);
  }
  for (let i = width - 1; i >= 0; i--) {
    let sum = right[i] as number;
    for (let k = i + 1; k < width; k++) sum -= (matrix[k * width + i] as number) * (right[k] as number);
    right[i] = sum / (matrix[i * width + i] as number);
  }
  return true;
}
