// Matches two photos by a file of `ripe export` and ONNX Runtime: prints x0 y0 x1 y1 similarity, a match a line.
//
//     match compact.onnx left.ppm right.ppm
//
// Photos are binary PPM files of 8 bits, so that nothing but ONNX Runtime is needed; 16 pixels or more a side. Positions
// are in pixels, the centre of the top-left one at (0, 0).
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

struct Features {
    std::vector<float> keypoints, descriptors;  // N×2 and N×D, best keypoint first
    size_t count = 0, length = 0;               // N and D
    const float *descriptor(size_t index) const { return descriptors.data() + index * length; }
};

// RGB in 0..1, all of red before all of green, as the network takes it.
std::vector<float> read_ppm(const std::filesystem::path &path, int64_t &width, int64_t &height) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int most = 0;
    file >> kind >> width >> height >> most;
    file.get();
    if (!file || kind != "P6" || most != 255) throw std::runtime_error(path.string() + ": no binary PPM file of 8 bits");
    const size_t pixels = width * height;
    std::vector<unsigned char> bytes(3 * pixels);
    if (!file.read(reinterpret_cast<char *>(bytes.data()), bytes.size()))
        throw std::runtime_error(path.string() + ": ends early");
    std::vector<float> planes(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) planes[i % 3 * pixels + i / 3] = bytes[i] / 255.0f;
    return planes;
}

Features extract(Ort::Session &session, const std::filesystem::path &path) {
    std::array<int64_t, 4> shape{1, 3, 0, 0};
    std::vector<float> image = read_ppm(path, shape[3], shape[2]);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto input = Ort::Value::CreateTensor<float>(memory, image.data(), image.size(), shape.data(), shape.size());
    const char *const inputs[] = {"image"}, *const outputs[] = {"keypoints", "descriptors"};
    const auto found = session.Run(Ort::RunOptions{}, inputs, &input, 1, outputs, 2);
    const auto size = found[1].GetTensorTypeAndShapeInfo().GetShape();  // 1, N, D
    Features features{{}, {}, size_t(size[1]), size_t(size[2])};
    const float *keypoints = found[0].GetTensorData<float>(), *descriptors = found[1].GetTensorData<float>();
    features.keypoints.assign(keypoints, keypoints + 2 * features.count);
    features.descriptors.assign(descriptors, descriptors + features.length * features.count);
    return features;
}

int main(int count, char **words) try {
    if (count != 4) throw std::runtime_error("match MODEL.onnx FIRST.ppm SECOND.ppm");
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
    Ort::Session session(environment, std::filesystem::path(words[1]).c_str(), Ort::SessionOptions{});
    const Features first = extract(session, words[2]), second = extract(session, words[3]);

    // Mutual nearest neighbours: of descriptors of length 1 the inner product is the similarity.
    std::vector<float> forward(first.count, -2), backward(second.count, -2);
    std::vector<size_t> forward_at(first.count), backward_at(second.count);
    for (size_t i = 0; i < first.count; ++i)
        for (size_t j = 0; j < second.count; ++j) {
            const float *a = first.descriptor(i), *b = second.descriptor(j);
            const float similarity = std::inner_product(a, a + first.length, b, 0.0f);
            if (similarity > forward[i]) forward[i] = similarity, forward_at[i] = j;
            if (similarity > backward[j]) backward[j] = similarity, backward_at[j] = i;
        }
    for (size_t i = 0; i < first.count && second.count; ++i)
        if (const size_t j = forward_at[i]; backward_at[j] == i)
            std::printf("%.4f %.4f %.4f %.4f %.4f\n", first.keypoints[2 * i], first.keypoints[2 * i + 1],
                        second.keypoints[2 * j], second.keypoints[2 * j + 1], forward[i]);
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
