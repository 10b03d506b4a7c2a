# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = []
#
# [tool.griptape-nodes]
# name = "flux_switch"
# schema_version = "0.21.0"
# engine_version_created_with = "0.104.2"
# node_libraries_referenced = [["Unstick", "0.1.0"]]
# node_types_used = [["Unstick", "FluxInference"], ["Unstick", "GpuConfiguration"], ["Unstick", "MemoryReport"], ["Unstick", "UnloadModels"]]
# is_griptape_provided = false
# is_internal = false
# creation_date = 2026-11-26T02:16:49.107558Z
# last_modified_date = 2026-11-26T02:16:49.194043Z
#
# ///

from griptape_nodes.node_library.library_registry import IconVariant, NodeDeprecationMetadata, NodeMetadata
from griptape_nodes.retained_mode.events.connection_events import CreateConnectionRequest
from griptape_nodes.retained_mode.events.flow_events import CreateFlowRequest
from griptape_nodes.retained_mode.events.library_events import RegisterLibraryFromFileRequest
from griptape_nodes.retained_mode.events.node_events import CreateNodeRequest
from griptape_nodes.retained_mode.events.parameter_events import AddParameterToNodeRequest, AlterParameterDetailsRequest, SetParameterValueRequest
from griptape_nodes.retained_mode.griptape_nodes import GriptapeNodes
from griptape_nodes.serialization.values import decode_value

async def build_workflow() -> None:
    await GriptapeNodes.ahandle_request(RegisterLibraryFromFileRequest(library_name='Unstick', perform_discovery_if_not_found=True))
    context_manager = GriptapeNodes.ContextManager()
    if not context_manager.has_current_workflow():
        context_manager.push_workflow(file_path=__file__)
    # Every unique parameter value, stored once and keyed by a hash of its content.
    # Values that aren't plain data carry a '$type' naming their class; decode_value rebuilds them.
    top_level_unique_values_dict = {'634635a2166efa2ae765abd31d4ae807': 'auto', '1e9d7c27c8bbc8ddf0055c93e064a62f': 0.8, 'e38e216cb55bf07f1b4188684ef9d479': 16.0, 'fcbcf165908dd18a9e49f7ff27810176': False, '018499301327505c6e73cf7c4ae922d5': 'black-forest-labs/FLUX.1-dev', '8cd1086a9fafd8c37e8833d01b221a78': '8-bit', '0ad9c790ca157de8b36172a7871fb13f': 'a lighthouse in a storm, oil on canvas', 'f5ca38f748a1d6eaf726b8a42fb575c3': 20, '8a199b120cf400d69c300e1dd6eacdc8': 3.5, 'e39eef82f61b21e2e7f762fcc4307358': 1024, '7902699be42c8a8e46fbbb4501726517': 7, '94f8607915dff25f013e45fc0642fb98': 512, 'f006c4915bce75dd9588871a11328f1a': -1.0, 'f1cf63c6a15a7a79c258061aee559ffd': 'by cause', '9a002da7244f66bd113fa9ed52bef4ff': '4-bit', '30a0924a3360be687d1df9fcbbfdff62': 'none', 'f9f8dfeb1015a75a720f4dd4f6cdc44f': 'all idle', '12ae32cb1ec02d01eda3581b127c1fee': '', 'b5bea41b6c623f7c09f1bf24dcae58eb': True}
    # Create the Flow, then do work within it as context.
    flow0_name = (await GriptapeNodes.ahandle_request(CreateFlowRequest(parent_flow_name=None, flow_name='ControlFlow_1', set_as_new_context=False, metadata={}))).flow_name
    with GriptapeNodes.ContextManager().flow(flow0_name):
        node0_name = (await GriptapeNodes.ahandle_request(CreateNodeRequest(node_type='GpuConfiguration', specific_library_name='Unstick', node_name='GPU Configuration', metadata={'library_node_metadata': {'category': 'gpu_memory', 'description': 'Which GPU, and how much of it: system constraints for the nodes that load models', 'display_name': 'GPU Configuration', 'tags': ['gpu', 'memory', 'constraints'], 'icon': 'Cpu', 'color': None, 'group': 'configure', 'deprecation': None, 'is_node_group': None, 'declarations': []}, 'library': 'Unstick', 'node_type': 'GpuConfiguration', 'position': {'x': 0, 'y': 0}}, initial_setup=True))).node_name
        node1_name = (await GriptapeNodes.ahandle_request(CreateNodeRequest(node_type='FluxInference', specific_library_name='Unstick', node_name='FLUX 8-bit', metadata={'library_node_metadata': {'category': 'gpu_memory', 'description': 'Makes an image with FLUX in 8-bit, 4-bit or full precision; the model stays for the next one', 'display_name': 'FLUX Inference', 'tags': ['flux', 'image', 'diffusion', 'quantization'], 'icon': 'Image', 'color': None, 'group': 'run', 'deprecation': None, 'is_node_group': None, 'declarations': []}, 'library': 'Unstick', 'node_type': 'FluxInference', 'position': {'x': 620, 'y': 0}}, initial_setup=True))).node_name
        node2_name = (await GriptapeNodes.ahandle_request(CreateNodeRequest(node_type='FluxInference', specific_library_name='Unstick', node_name='FLUX 4-bit', metadata={'library_node_metadata': {'category': 'gpu_memory', 'description': 'Makes an image with FLUX in 8-bit, 4-bit or full precision; the model stays for the next one', 'display_name': 'FLUX Inference', 'tags': ['flux', 'image', 'diffusion', 'quantization'], 'icon': 'Image', 'color': None, 'group': 'run', 'deprecation': None, 'is_node_group': None, 'declarations': []}, 'library': 'Unstick', 'node_type': 'FluxInference', 'position': {'x': 1240, 'y': 0}}, initial_setup=True))).node_name
        node3_name = (await GriptapeNodes.ahandle_request(CreateNodeRequest(node_type='FluxInference', specific_library_name='Unstick', node_name='FLUX none', metadata={'library_node_metadata': {'category': 'gpu_memory', 'description': 'Makes an image with FLUX in 8-bit, 4-bit or full precision; the model stays for the next one', 'display_name': 'FLUX Inference', 'tags': ['flux', 'image', 'diffusion', 'quantization'], 'icon': 'Image', 'color': None, 'group': 'run', 'deprecation': None, 'is_node_group': None, 'declarations': []}, 'library': 'Unstick', 'node_type': 'FluxInference', 'position': {'x': 1860, 'y': 0}}, initial_setup=True))).node_name
        node4_name = (await GriptapeNodes.ahandle_request(CreateNodeRequest(node_type='MemoryReport', specific_library_name='Unstick', node_name='Memory Report', metadata={'library_node_metadata': {'category': 'gpu_memory', 'description': 'Who holds what: per model, component and tier, other libraries and other processes', 'display_name': 'Memory Report', 'tags': ['gpu', 'memory', 'report'], 'icon': 'ClipboardList', 'color': None, 'group': 'look', 'deprecation': None, 'is_node_group': None, 'declarations': []}, 'library': 'Unstick', 'node_type': 'MemoryReport', 'position': {'x': 2480, 'y': 0}}, initial_setup=True))).node_name
        node5_name = (await GriptapeNodes.ahandle_request(CreateNodeRequest(node_type='UnloadModels', specific_library_name='Unstick', node_name='Unload', metadata={'library_node_metadata': {'category': 'gpu_memory', 'description': 'Gives GPU memory back now, and says how many bytes the driver has got back', 'display_name': 'Unload', 'tags': ['gpu', 'memory', 'unload', 'free'], 'icon': 'Eraser', 'color': None, 'group': 'run', 'deprecation': None, 'is_node_group': None, 'declarations': []}, 'library': 'Unstick', 'node_type': 'UnloadModels', 'position': {'x': 3100, 'y': 0}}, initial_setup=True))).node_name
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node0_name, source_parameter_name='system_constraints', target_node_name=node1_name, target_parameter_name='system_constraints', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node0_name, source_parameter_name='system_constraints', target_node_name=node2_name, target_parameter_name='system_constraints', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node1_name, source_parameter_name='exec_out', target_node_name=node2_name, target_parameter_name='exec_in', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node0_name, source_parameter_name='system_constraints', target_node_name=node3_name, target_parameter_name='system_constraints', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node2_name, source_parameter_name='exec_out', target_node_name=node3_name, target_parameter_name='exec_in', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node0_name, source_parameter_name='system_constraints', target_node_name=node4_name, target_parameter_name='system_constraints', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node3_name, source_parameter_name='exec_out', target_node_name=node4_name, target_parameter_name='exec_in', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node0_name, source_parameter_name='system_constraints', target_node_name=node5_name, target_parameter_name='system_constraints', initial_setup=True))
        await GriptapeNodes.ahandle_request(CreateConnectionRequest(source_node_name=node4_name, source_parameter_name='exec_out', target_node_name=node5_name, target_parameter_name='exec_in', initial_setup=True))
        with GriptapeNodes.ContextManager().node(node0_name):
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='gpu_device', node_name=node0_name, value=decode_value(top_level_unique_values_dict['634635a2166efa2ae765abd31d4ae807']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='gpu_memory_fraction', node_name=node0_name, value=decode_value(top_level_unique_values_dict['1e9d7c27c8bbc8ddf0055c93e064a62f']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='cpu_memory_gb', node_name=node0_name, value=decode_value(top_level_unique_values_dict['e38e216cb55bf07f1b4188684ef9d479']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='allow_low_memory', node_name=node0_name, value=decode_value(top_level_unique_values_dict['fcbcf165908dd18a9e49f7ff27810176']), initial_setup=True, is_output=False))
        with GriptapeNodes.ContextManager().node(node1_name):
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='model', node_name=node1_name, value=decode_value(top_level_unique_values_dict['018499301327505c6e73cf7c4ae922d5']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='quantization', node_name=node1_name, value=decode_value(top_level_unique_values_dict['8cd1086a9fafd8c37e8833d01b221a78']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='prompt', node_name=node1_name, value=decode_value(top_level_unique_values_dict['0ad9c790ca157de8b36172a7871fb13f']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='num_inference_steps', node_name=node1_name, value=decode_value(top_level_unique_values_dict['f5ca38f748a1d6eaf726b8a42fb575c3']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='guidance_scale', node_name=node1_name, value=decode_value(top_level_unique_values_dict['8a199b120cf400d69c300e1dd6eacdc8']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='width', node_name=node1_name, value=decode_value(top_level_unique_values_dict['e39eef82f61b21e2e7f762fcc4307358']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='height', node_name=node1_name, value=decode_value(top_level_unique_values_dict['e39eef82f61b21e2e7f762fcc4307358']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='seed', node_name=node1_name, value=decode_value(top_level_unique_values_dict['7902699be42c8a8e46fbbb4501726517']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='max_sequence_length', node_name=node1_name, value=decode_value(top_level_unique_values_dict['94f8607915dff25f013e45fc0642fb98']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='max_wait', node_name=node1_name, value=decode_value(top_level_unique_values_dict['f006c4915bce75dd9588871a11328f1a']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='patience', node_name=node1_name, value=decode_value(top_level_unique_values_dict['f1cf63c6a15a7a79c258061aee559ffd']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='was_successful', node_name=node1_name, value=decode_value(top_level_unique_values_dict['fcbcf165908dd18a9e49f7ff27810176']), initial_setup=True, is_output=False))
        with GriptapeNodes.ContextManager().node(node2_name):
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='model', node_name=node2_name, value=decode_value(top_level_unique_values_dict['018499301327505c6e73cf7c4ae922d5']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='quantization', node_name=node2_name, value=decode_value(top_level_unique_values_dict['9a002da7244f66bd113fa9ed52bef4ff']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='prompt', node_name=node2_name, value=decode_value(top_level_unique_values_dict['0ad9c790ca157de8b36172a7871fb13f']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='num_inference_steps', node_name=node2_name, value=decode_value(top_level_unique_values_dict['f5ca38f748a1d6eaf726b8a42fb575c3']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='guidance_scale', node_name=node2_name, value=decode_value(top_level_unique_values_dict['8a199b120cf400d69c300e1dd6eacdc8']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='width', node_name=node2_name, value=decode_value(top_level_unique_values_dict['e39eef82f61b21e2e7f762fcc4307358']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='height', node_name=node2_name, value=decode_value(top_level_unique_values_dict['e39eef82f61b21e2e7f762fcc4307358']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='seed', node_name=node2_name, value=decode_value(top_level_unique_values_dict['7902699be42c8a8e46fbbb4501726517']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='max_sequence_length', node_name=node2_name, value=decode_value(top_level_unique_values_dict['94f8607915dff25f013e45fc0642fb98']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='max_wait', node_name=node2_name, value=decode_value(top_level_unique_values_dict['f006c4915bce75dd9588871a11328f1a']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='patience', node_name=node2_name, value=decode_value(top_level_unique_values_dict['f1cf63c6a15a7a79c258061aee559ffd']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='was_successful', node_name=node2_name, value=decode_value(top_level_unique_values_dict['fcbcf165908dd18a9e49f7ff27810176']), initial_setup=True, is_output=False))
        with GriptapeNodes.ContextManager().node(node3_name):
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='model', node_name=node3_name, value=decode_value(top_level_unique_values_dict['018499301327505c6e73cf7c4ae922d5']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='quantization', node_name=node3_name, value=decode_value(top_level_unique_values_dict['30a0924a3360be687d1df9fcbbfdff62']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='prompt', node_name=node3_name, value=decode_value(top_level_unique_values_dict['0ad9c790ca157de8b36172a7871fb13f']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='num_inference_steps', node_name=node3_name, value=decode_value(top_level_unique_values_dict['f5ca38f748a1d6eaf726b8a42fb575c3']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='guidance_scale', node_name=node3_name, value=decode_value(top_level_unique_values_dict['8a199b120cf400d69c300e1dd6eacdc8']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='width', node_name=node3_name, value=decode_value(top_level_unique_values_dict['e39eef82f61b21e2e7f762fcc4307358']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='height', node_name=node3_name, value=decode_value(top_level_unique_values_dict['e39eef82f61b21e2e7f762fcc4307358']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='seed', node_name=node3_name, value=decode_value(top_level_unique_values_dict['7902699be42c8a8e46fbbb4501726517']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='max_sequence_length', node_name=node3_name, value=decode_value(top_level_unique_values_dict['94f8607915dff25f013e45fc0642fb98']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='max_wait', node_name=node3_name, value=decode_value(top_level_unique_values_dict['f006c4915bce75dd9588871a11328f1a']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='patience', node_name=node3_name, value=decode_value(top_level_unique_values_dict['f1cf63c6a15a7a79c258061aee559ffd']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='was_successful', node_name=node3_name, value=decode_value(top_level_unique_values_dict['fcbcf165908dd18a9e49f7ff27810176']), initial_setup=True, is_output=False))
        with GriptapeNodes.ContextManager().node(node5_name):
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='what', node_name=node5_name, value=decode_value(top_level_unique_values_dict['f9f8dfeb1015a75a720f4dd4f6cdc44f']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='model', node_name=node5_name, value=decode_value(top_level_unique_values_dict['12ae32cb1ec02d01eda3581b127c1fee']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='quantization', node_name=node5_name, value=decode_value(top_level_unique_values_dict['8cd1086a9fafd8c37e8833d01b221a78']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='keep_in_host_memory', node_name=node5_name, value=decode_value(top_level_unique_values_dict['b5bea41b6c623f7c09f1bf24dcae58eb']), initial_setup=True, is_output=False))
            await GriptapeNodes.ahandle_request(SetParameterValueRequest(parameter_name='other_libraries', node_name=node5_name, value=decode_value(top_level_unique_values_dict['fcbcf165908dd18a9e49f7ff27810176']), initial_setup=True, is_output=False))
