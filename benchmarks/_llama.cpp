// llama.cpp's library as a reader of GGUF files: greedy tokens, ids of texts, stops.
//
//   _llama MODEL.gguf ADAPTER.gguf|- CONTEXT NEW < questions > answers
//
// One line each: "P 2 17 9" continues ids, "T 6465" splits the text of these bytes, "I 9
// 17 | 3 4" fills in between ids of a prefix and a suffix, with the sentinels that the file
// names, as llama-server's /infill does; "E" lists the ids that end a generation. Caches are
// float32, attention is the plain one.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

using Ids = std::vector<llama_token>;

static Ids numbers(std::istream & in) {
    Ids ids;
    for (llama_token id; in >> id;) ids.push_back(id);
    return ids;
}

static Ids greedy(llama_context * context, const llama_vocab * vocab, Ids ids, int count) {
    llama_memory_clear(llama_get_memory(context), true);
    const int size = llama_vocab_n_tokens(vocab);
    Ids found;
    while ((int) found.size() < count) {
        if (llama_decode(context, llama_batch_get_one(ids.data(), ids.size()))) exit(1);
        const float * scores = llama_get_logits_ith(context, -1);
        llama_token best = std::max_element(scores, scores + size) - scores;
        found.push_back(best);
        if (llama_vocab_is_eog(vocab, best)) break;
        ids = {best};
    }
    return found;
}

static Ids split(const llama_vocab * vocab, const std::string & hex) {
    std::string text;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) text += (char) std::stoi(hex.substr(i, 2), nullptr, 16);
    Ids ids(text.size() + 8);
    int count = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(), false, false);
    ids.resize(std::max(count, 0));
    return ids;
}

int main(int argc, char ** argv) {
    if (argc != 5) return 2;
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 1;
    auto settings = llama_context_default_params();
    settings.n_ctx = settings.n_batch = settings.n_ubatch = std::stoi(argv[3]);
    settings.n_threads = settings.n_threads_batch = 2;
    settings.type_k = settings.type_v = GGML_TYPE_F32;
    settings.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, settings);
    if (std::string(argv[2]) != "-") {
        llama_adapter_lora * adapter = llama_adapter_lora_init(model, argv[2]);
        float scale = 1;
        if (!adapter || llama_set_adapters_lora(context, &adapter, 1, &scale)) return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int count = std::stoi(argv[4]);
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream rest(line.substr(1));
        Ids answer;
        if (line[0] == 'P') answer = greedy(context, vocab, numbers(rest), count);
        if (line[0] == 'T') answer = split(vocab, line.substr(std::min<size_t>(2, line.size())));
        if (line[0] == 'I') {
            std::istringstream suffix(line.substr(line.find('|') + 1));
            std::istringstream prefix(line.substr(1, line.find('|') - 1));
            Ids ids = {llama_vocab_bos(vocab), llama_vocab_fim_pre(vocab)};
            for (auto id : numbers(prefix)) ids.push_back(id);
            ids.push_back(llama_vocab_fim_suf(vocab));
            for (auto id : numbers(suffix)) ids.push_back(id);
            ids.push_back(llama_vocab_fim_mid(vocab));
            answer = greedy(context, vocab, ids, count);
        }
        if (line[0] == 'E') {
            for (int id = 0; id < llama_vocab_n_tokens(vocab); id++)
                if (llama_vocab_is_eog(vocab, id)) answer.push_back(id);
        }
        for (auto id : answer) printf("%d ", id);
        printf("\n");
    }
}
